"""Data given from Python: arrays, an iterable of feeds, or a function named by the user."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxslim.calibration.sources.base import LABELS, MAX_FEED_BYTES, Sample, pick, suggest
from onnxslim.calibration.sources.rows import ArrayColumn, Column, Rows
from onnxslim.errors import CalibrationError, OptionError, ResourceError
from onnxslim.runtime.values import TensorInfo

__all__ = ["FeedIterable", "array_rows", "load_function"]


def array_rows(
    arrays: Mapping[str, Any], inputs: Sequence[TensorInfo], batch: int | None, where: str = "arrays"
) -> Rows:
    """The feeds of arrays that have the samples along their first axis."""
    columns: dict[str, Column] = {name: ArrayColumn(np.asarray(array)) for name, array in arrays.items()}
    return Rows(lambda: contextlib.nullcontext(columns), where, inputs, batch)


class FeedIterable:
    """Feeds from a function that returns an iterable; it is called again for every pass over the data."""

    sized = False

    def __init__(self, produce: Callable[[], Iterable[Any]], where: str) -> None:
        self._produce = produce
        self._where = where
        self._length: int | None = None
        self.description = where

    @classmethod
    def of(cls, feeds: Iterable[Any], limit: int | None) -> FeedIterable:
        """Over any iterable; a one-shot iterator is read into memory, ``limit`` feeds of it.

        Raises:
            ResourceError: a one-shot iterator yields more than fits; give a function or a list instead.
        """
        if iter(feeds) is not feeds:
            return cls(lambda: feeds, "feeds from Python")
        kept, size = [], 0
        for feed in itertools.islice(feeds, limit):
            kept.append(feed)
            if isinstance(feed, Mapping):
                size += sum(getattr(value, "nbytes", 0) for value in feed.values())
            if size > MAX_FEED_BYTES or len(kept) > 1_000_000:
                raise ResourceError(
                    f"the iterator was still going after {len(kept)} feeds ({size} bytes)",
                    hint="pass a function that returns an iterable, or limit the number of samples",
                )
        return cls(lambda: kept, "feeds from Python")

    def __len__(self) -> int:
        if self._length is None:
            self._length = sum(1 for _ in self.read())
        return self._length

    def read(self, indices: Sequence[int] | None = None) -> Iterator[Sample]:
        return pick(self._items(), indices, self._sample)

    def _items(self) -> Iterator[Any]:
        try:
            yield from self._produce()
        except Exception as error:
            raise CalibrationError(f"{type(error).__name__}: {error}", where=self._where) from error

    def _sample(self, i: int, item: Any) -> Sample:
        origin = f"{self._where}, sample {i}"
        if not isinstance(item, Mapping):
            raise CalibrationError(
                f"a feed must map input names to arrays, this is a {type(item).__name__}", where=origin
            )
        feed = dict(item)
        labels = feed.pop(LABELS, None)
        return Sample(i, origin, feed, None if labels is None else np.asarray(labels))


def load_function(spec: str) -> Callable[..., Any]:
    """The function behind ``module:function`` or ``path.py:function``.

    A file's folder is on ``sys.path`` while the file is imported, and no longer.

    Raises:
        OptionError: no such file, module or function, or the import fails.

    Example:
        >>> load_function("math:sqrt")(9.0)
        3.0
    """
    home, _, name = spec.rpartition(":")
    if not home or not name:
        raise OptionError(f"'{spec}' names no function", hint="write module:function or path.py:function")
    try:
        module = _import_file(Path(home)) if home.endswith(".py") else importlib.import_module(home)
    except Exception as error:
        raise OptionError(f"the import fails: {type(error).__name__}: {error}", where=home) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise OptionError(f"there is no function '{name}'", where=home, hint=suggest(name, known))
    return function  # type: ignore[no-any-return]


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    # A name of its own, so that a file called numpy.py or test.py shadows nothing.
    name = f"_onnxslim_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.modules[name] = module  # dataclasses and pickling inside the file look it up
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
    return module
