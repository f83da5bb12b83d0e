"""Load and save models.

    file -> load -> ir.Model -> [pass]* -> ir.Model -> save

One load and one save per pipeline.  What is read is untrusted, and checked before anything is built from it;
what is written appears at once or not at all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxslim._ir import ir
from onnxslim.errors import ModelError, ResourceError
from onnxslim.model import writer
from onnxslim.model.build import build, serialized
from onnxslim.model.check import check, check_files
from onnxslim.model.edit import know_names
from onnxslim.model.external import ExternalFiles
from onnxslim.model.files import parse, read
from onnxslim.model.hashing import file_digest, is_external
from onnxslim.model.limits import Limits
from onnxslim.model.protos import inlined, map_tensors, node_count, tensors_of
from onnxslim.model.sizes import serialized_size, weight_bytes
from onnxslim.model.validate import validate

__all__ = ["FileInfo", "ModelLike", "copy", "file_info", "load", "save", "serialized_size", "to_proto"]

ModelLike = str | os.PathLike[str] | onnx.ModelProto | ir.Model

_PROTO_LIMIT = 2**31 - 2**20  # protobuf's own limit, less room for what only the writer adds
_MANY_BYTES = 512 << 20  # of weights


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A model file: ``sha256`` is the model file's own, ``bytes`` counts its external data too."""

    path: str
    sha256: str
    bytes: int
    nodes: int


def load(source: ModelLike, *, limits: Limits = Limits()) -> ir.Model:  # noqa: B008 (frozen)
    """Load, check and return a model; weights in external data stay memory-mapped.

    Args:
        source: a path, a ``ModelProto`` (copied) or an ``ir.Model`` (cloned); the caller's never changes.
            External data is looked for beside the path as given, also where that is a symlink.
        limits: bounds beyond which the model is refused.

    Raises:
        ModelError: for a file that is no valid model.
        ResourceError: for a model beyond the limits.
    """
    if isinstance(source, ir.Model):
        return _adopted(source)
    if isinstance(source, onnx.ModelProto):
        proto, folder, where = onnx.ModelProto(), None, "ModelProto"
        proto.CopyFrom(source)
    else:
        path = Path(source)
        folder, where = path.parent, str(path)
        proto = parse(read(path, limits), where, limits)
    findings = validate(proto, limits, ExternalFiles(folder), where)
    return build(proto, findings, folder, where)


def _adopted(source: ir.Model) -> ir.Model:
    try:
        model = source.clone()
    except (KeyError, RuntimeError, ValueError) as error:
        hint = "sort it with model.graph.sort(), and let every value come from its own or an outer graph"
        raise ModelError("the ir.Model is not in order", where="ir.Model", hint=hint) from error
    check(model)
    check_files(model)
    know_names(model)
    return model


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as one self-contained message.

    Raises:
        ResourceError: past protobuf's limit of 2 GiB.
    """
    if _too_large(model):
        what = f"the model has {serialized_size(model):,} bytes, more than one file can hold"
        raise ResourceError(what, hint="save it with external data")
    return _message(model)


def _message(model: ir.Model) -> onnx.ModelProto:
    if any(is_external(tensor) for tensor in tensors_of(model)):
        model = map_tensors(model, inlined)
    return serialized(model)


def _too_large(model: ir.Model) -> bool:
    """Whether one message cannot hold the model; small models are told by their weights alone."""
    return weight_bytes(model) > _PROTO_LIMIT // 2 and serialized_size(model) > _PROTO_LIMIT


def _stays_apart(model: ir.Model) -> bool:
    """Whether many weights lie in files of their own."""
    return weight_bytes(model) >= _MANY_BYTES and any(map(is_external, tensors_of(model)))


def save(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    external_data: bool | None = None,
    force: bool = False,
) -> FileInfo:
    """Write a model; the file that was there before stays whole until the new one is complete.

    External data goes to ``<path>.<8 hex of its hash>.data`` beside the model, in chunks; data files of
    earlier saves to the same path are removed at the end.  A symlink at ``path`` is replaced, not followed.

    Args:
        model: stays usable, also when ``path`` is the very file it was loaded from.
        path: the model file to write.
        external_data: weights in a second file; None decides by protobuf's limit of 2 GiB, and lets 512 MB or
            more that came in a second file stay in one: a message of all of them would be held several times.
        force: replace an existing file.

    Raises:
        OptionError: for an unusable ``path``, or an existing one without ``force``.
        ResourceError: when the disk is full or the system refuses otherwise; nothing is left behind.
    """
    path = Path(path)
    writer.check_destination(path, force=force)
    external = _too_large(model) or _stays_apart(model) if external_data is None else external_data
    with writer.temporary_folder(path) as folder:
        data: Path | None = None
        if external:
            large = writer.large_tensors(model)
            places, digest = writer.write_data(list(large.values()), folder / "data")
            data = path.with_name(f"{path.name}.{digest}.data")
            located = dict(zip(large, places, strict=True))
            location = data.name
            proto = serialized(map_tensors(model, lambda tensor: writer.relocated(tensor, located, location)))
        else:
            proto = _message(model) if external_data is None else to_proto(model)
        writer.write_proto(proto, folder / "model")
        del proto
        writer.commit(folder, path, data)
        writer.remove_stale_data(path, data, model)
        return _info(path, [data] if data else [], node_count(model))


def copy(source: str | os.PathLike[str], path: str | os.PathLike[str], *, force: bool = False) -> FileInfo:
    """Write a model file's very bytes to another place, as atomically as :func:`save`.

    Args:
        source: a model file without external data (whose name would have to change).
        path: where to write it.
        force: replace an existing file.
    """
    path = Path(path)
    writer.check_destination(path, force=force)
    model = load(source)
    with writer.temporary_folder(path) as folder:
        shutil.copyfile(source, folder / "model")
        writer.commit(folder, path, None)
        writer.remove_stale_data(path, None, model)
    return file_info(path, model)


def file_info(path: str | os.PathLike[str], model: ir.Model | None = None) -> FileInfo:
    """Size, hash and node count of a model file.

    Args:
        path: the model file.
        model: the model loaded from or saved to it, where the caller has it already; else it is loaded.
    """
    path = Path(path)
    if model is None:
        model = load(path)
    data = {Path(tensor.path) for tensor in tensors_of(model) if is_external(tensor)}
    return _info(path, data, node_count(model))


def _info(path: Path, data: Iterable[Path], nodes: int) -> FileInfo:
    size = path.stat().st_size + sum(file.stat().st_size for file in data)
    return FileInfo(str(path), file_digest(path), size, nodes)
