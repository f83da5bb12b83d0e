"""Which source of data a user means: by the kind of what is given, and by what lies at a path."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxslim.calibration.sources.base import Source
from onnxslim.calibration.sources.images import IMAGE_SUFFIXES, ImageFolder, ImageSpec
from onnxslim.calibration.sources.npz import NpzFolder, npz_rows
from onnxslim.calibration.sources.python import FeedIterable, array_rows, load_function
from onnxslim.calibration.sources.rows import Rows
from onnxslim.errors import CalibrationError, OptionError
from onnxslim.runtime.values import TensorInfo

__all__ = ["find_source"]

Images = ImageSpec | Mapping[str, Any] | str | None


def find_source(
    source: Any, inputs: Sequence[TensorInfo], samples: int | None, batch: int | None, images: Images
) -> Source:
    """The source behind what :func:`onnxslim.calibration.data.open_feeds` was given.

    Raises:
        CalibrationError: there is no such data.
        OptionError: an option that has no meaning for this kind of data.
    """
    found = _open(source, inputs, samples, batch, images)
    if batch is not None and not isinstance(found, Rows):
        raise OptionError(
            "a batch size applies to arrays of samples; these are feeds already", where=found.description
        )
    if images is not None and not isinstance(found, ImageFolder):
        raise OptionError(
            "a preprocessing of images is given and the data holds none", where=found.description
        )
    return found


def _open(
    source: Any,
    inputs: Sequence[TensorInfo],
    samples: int | None,
    batch: int | None,
    images: Images,
) -> Source:
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        path = Path(text)
        if path.is_dir():
            return _open_folder(path, inputs, images)
        if not path.exists() and ":" in text and path.suffix != ".npz":
            return FeedIterable(load_function(text), text)
        if path.exists():
            return npz_rows(path, inputs, batch)
        raise CalibrationError(
            "there is no such data",
            where=text,
            hint="give an .npz file, a folder, module:function, path.py:function, or 'random'",
        )
    if isinstance(source, np.ndarray):
        if len(inputs) != 1:
            raise CalibrationError(f"one array is given and the model has {len(inputs)} inputs")
        return array_rows({inputs[0].name: source}, inputs, batch)
    if isinstance(source, Mapping):
        return array_rows(source, inputs, batch)
    if callable(source):
        return FeedIterable(source, getattr(source, "__qualname__", "function"))
    if isinstance(source, Iterable):
        return FeedIterable.of(source, samples)
    raise OptionError(f"a {type(source).__name__} is not data")


def _open_folder(path: Path, inputs: Sequence[TensorInfo], images: Images) -> Source:
    files = sorted(path.iterdir())
    feeds = [file for file in files if file.suffix == ".npz"]
    pictures = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if feeds:
        return NpzFolder(feeds, str(path))
    if not pictures:
        raise CalibrationError("the folder holds neither .npz files nor images", where=str(path))
    if images is None:
        raise OptionError(
            "a folder of images needs to know the preprocessing",
            where=str(path),
            hint="for example size=224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225",
        )
    if isinstance(images, str):
        images = ImageSpec.parse(images)
    elif not isinstance(images, ImageSpec):
        images = ImageSpec.of(images)
    return ImageFolder(pictures, str(path), inputs, images)
