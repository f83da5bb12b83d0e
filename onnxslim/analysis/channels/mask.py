"""Which channels to remove, as a file with the digest of the weights that it was made for: JSON or .npz.

The .npz file has an array of atoms for each group, under the group's key; where they come from elsewhere, an
array of booleans will do, true for what goes.  ``__schema__`` and ``__model__`` are strings.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.model.edit import scopes
from onnxslim.model.hashing import tensor_digest

__all__ = ["Mask", "weights_digest"]

_SCHEMA = "onnxslim.mask/1"
_MOST_BYTES = 1 << 28
_ARRAYS = ".npz"


@dataclass(frozen=True, slots=True)
class Mask:
    """Atoms to remove, group key -> indices, and the model they belong to.

    Attributes:
        remove: :attr:`Group.key` -> atoms.
        model: :func:`weights_digest` of the model that the mask was made for; empty where nobody knows.
    """

    remove: Mapping[str, tuple[int, ...]]
    model: str = ""

    def check(self, model: ir.Model) -> None:
        """Refuse a mask of another model.

        Raises:
            OptionError: the digest is another.
        """
        if self.model and self.model != weights_digest(model):
            raise OptionError(
                "the mask was made for other weights",
                hint="make it anew for this model, or apply it before any other step",
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask: as .npz where the name ends so, else as JSON."""
        if Path(path).suffix == _ARRAYS:
            arrays: dict[str, Any] = {key: np.array(atoms, np.int64) for key, atoms in self.remove.items()}
            np.savez_compressed(path, **arrays, __schema__=np.array(_SCHEMA), __model__=np.array(self.model))
            return
        body = {
            "schema": _SCHEMA,
            "model": self.model,
            "remove": {key: [int(i) for i in atoms] for key, atoms in self.remove.items()},
        }
        Path(path).write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Mask:
        """Read a mask.

        Raises:
            OptionError: the file is missing, too large or no mask.
        """
        where = os.fspath(path)
        try:
            if Path(path).stat().st_size > _MOST_BYTES:
                raise OptionError("the file is too large for a mask", where=where)
            body = _arrays(Path(path)) if Path(path).suffix == _ARRAYS else _object(Path(path))
        except OSError as error:
            raise OptionError(f"the mask cannot be read: {error.strerror}", where=where) from None
        except (ValueError, RecursionError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            form = "an .npz file of numbers" if Path(path).suffix == _ARRAYS else "JSON"
            raise OptionError(
                f"the file is not {form}", where=where, hint="save one with Mask.save"
            ) from error
        remove = body.get("remove") if isinstance(body, dict) and body.get("schema") == _SCHEMA else None
        digest = body.get("model", "") if isinstance(body, dict) else ""
        sound = isinstance(remove, dict) and isinstance(digest, str) and all(map(_indices, remove.values()))
        if not isinstance(remove, dict) or not sound:
            raise OptionError("the file is not a mask", where=where, hint=f'its "schema" must be {_SCHEMA}')
        return Mask({key: tuple(atoms) for key, atoms in remove.items()}, digest)


def _object(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _arrays(path: Path) -> dict[str, Any]:
    """What is in an .npz file, in the terms of the JSON one; ValueError for what is no such file."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
            raise OptionError("the file is too large for a mask", where=os.fspath(path))
    with np.load(path, allow_pickle=False) as stored:
        arrays = {key: np.asarray(stored[key]) for key in stored.files}
    schema, model = (arrays.pop(name, np.array("")) for name in ("__schema__", "__model__"))
    remove = {key: np.flatnonzero(a) if a.dtype == np.bool_ else a for key, a in arrays.items()}
    return {
        "schema": str(schema),
        "model": str(model),
        "remove": {key: array.tolist() for key, array in remove.items()},
    }


def weights_digest(model: ir.Model) -> str:
    """A digest of all initializers, with their names: hex, of 32 bytes.

    Example:
        >>> len(weights_digest(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)))
        64
    """
    digest = hashlib.blake2b(digest_size=32)
    for scope in scopes(model):
        graph = scope.graph if isinstance(scope, ir.Function) else scope
        for name, value in sorted(graph.initializers.items()):
            if value.const_value is not None:
                digest.update(f"{len(name)}:{name}".encode())
                digest.update(tensor_digest(value.const_value))
    return digest.hexdigest()


def _indices(atoms: object) -> bool:
    return isinstance(atoms, list) and all(type(atom) is int and atom >= 0 for atom in atoms)
