"""External data: only regular files inside the model's own folder, and only ranges that they really have.

Refused: absolute paths, ``..``, symlinks that leave the folder, files with several hard links (either could
smuggle a foreign file into our output), devices and pipes.  The caches of model hubs link data files to blobs
outside the model's folder; these are refused too, as onnx itself does, since nothing tells such a link from
an attack.  Copy the folder with its links resolved (``cp -rL``) and load that.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from onnxslim.errors import ModelError, ResourceError
from onnxslim.model.tensors import RE_EXPORT, content_bytes, shown

__all__ = ["ExternalFiles"]

_NUMBER = re.compile(r"[0-9]{1,18}")
_OVERLAP = 16  # so many times may tensors share the same bytes on average; tied weights need two or three
_SLACK = 64 << 20
_SPARSE = 1 << 30


@dataclass
class ExternalFiles:
    """The data files of one model; ``folder`` is None for a model that did not come from a file."""

    folder: Path | None
    _sizes: dict[str, int] = field(default_factory=dict)
    _declared: int = 0

    def check(self, tensor: onnx.TensorProto, where: str) -> None:
        """Check a tensor's reference, and write the length in where it was left out.

        Raises:
            ModelError: for a reference that is malformed, leaves the folder or exceeds the file.
            ResourceError: for a data file that is a hole, or shared beyond reason.
        """
        where = f"{where}, tensor {shown(tensor.name)}"
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if len(entries) != len(tensor.external_data):
            raise ModelError("external data has the same key twice", where=where, hint=RE_EXPORT)
        location = entries.get("location")
        if not isinstance(location, str) or not location:
            raise ModelError("external data has no location", where=where, hint=RE_EXPORT)
        needed = content_bytes(tensor.data_type, tensor.dims)
        offset = _number(entries.get("offset", "0"), "offset", where)
        length = _number(entries.get("length", str(needed)), "length", where)
        self.check_range(location, offset, length, needed, where)
        if "length" not in entries:
            tensor.external_data.add(key="length", value=str(length))

    def check_range(self, location: str, offset: int, length: int, needed: int, where: str) -> None:
        """Check that ``location`` is one of ours, and that it has the bytes that a tensor needs."""
        if length != needed:
            what = f"type and shape need {needed} bytes, the external length is {length}"
            raise ModelError(what, where=where, hint=RE_EXPORT)
        if location not in self._sizes:
            self._sizes[location] = self._size(location, where)
        size = self._sizes[location]
        if offset + length > size:
            what = f"external data ends at byte {offset + length}, the file {shown(location)} has {size}"
            raise ModelError(what, where=where, hint="the data file is cut short or of another model")
        self._declared += length
        if self._declared > _OVERLAP * sum(self._sizes.values()) + _SLACK:
            raise ResourceError(
                "external tensors share the same bytes too often", where=where, hint=RE_EXPORT
            )

    def _size(self, location: str, where: str) -> int:
        shared = "external data must lie in the model's own folder"
        if self.folder is None:
            what = "a model in memory refers to external data, but not to the folder of it"
            raise ModelError(what, where=where, hint="pass the model's path, or load the data first")
        if not location.isprintable():
            raise ModelError(
                "the location of external data has control characters", where=where, hint=RE_EXPORT
            )
        if PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor:
            raise ModelError(
                f"external data has an absolute path: {shown(location)}", where=where, hint=shared
            )
        if ".." in PurePosixPath(location).parts:
            raise ModelError(f"external data leaves the folder: {shown(location)}", where=where, hint=shared)
        try:
            path = (self.folder / location).resolve(strict=True)
            status = path.stat()
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of symlinks
            hint = f"put it beside the model, into {self.folder}"
            raise ModelError(f"no external data at {shown(location)}", where=where, hint=hint) from error
        if not path.is_relative_to(self.folder.resolve()):
            hint = "copy the folder with its links resolved: cp -rL"
            raise ModelError(f"the link {shown(location)} leaves the folder", where=where, hint=hint)
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(
                f"external data is not a regular file: {shown(location)}", where=where, hint=shared
            )
        if status.st_nlink > 1:
            what = f"{shown(location)} has several hard links, and may be a foreign file"
            raise ModelError(what, where=where, hint="copy it: cp FILE COPY && mv COPY FILE")
        if status.st_size > _SPARSE and status.st_blocks * 512 < status.st_size // 16:
            raise ResourceError(f"{shown(location)} is a hole, not data", where=where, hint="write it anew")
        return status.st_size


def _number(text: str, key: str, where: str) -> int:
    if not isinstance(text, str) or not _NUMBER.fullmatch(text):
        raise ModelError(f"the external {key} is no number: {shown(text)}", where=where, hint=RE_EXPORT)
    return int(text)
