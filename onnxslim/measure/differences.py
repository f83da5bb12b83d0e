"""How far one value is from another: tensors, strings, sequences, maps and empty optionals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Difference", "signal_to_noise"]

_CHUNK = 1 << 20
_RELATIVE, _ABSOLUTE = 1e-4, 1e-6

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class Difference:
    """What :meth:`add` has seen; all sums are taken in float64.

    Attributes:
        mismatch: the first difference that no number can express (type, shape, text, a stray NaN).
        close: ``max|d| <= 1e-4 * max|ref| + 1e-6`` held each time.
    """

    bit_equal: bool = True
    close: bool = True
    mismatch: str = ""
    max_abs_diff: float = 0.0
    ref_max: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    @property
    def sqnr_db(self) -> float:
        """``10 log10(sum ref^2 / sum d^2)``; infinite without noise."""
        return _decibels(self.signal, self.noise)

    def add(self, reference: Any, value: Any) -> None:
        """Compare one more pair."""
        if isinstance(reference, dict) and isinstance(value, dict):
            if list(reference) != list(value):
                self._mismatched("other keys")
            else:
                self.add(list(reference.values()), list(value.values()))
        elif isinstance(reference, list) and isinstance(value, list):
            if len(reference) != len(value):
                self._mismatched(f"{len(value)} elements instead of {len(reference)}")
            else:
                for one, other in zip(reference, value, strict=True):
                    self.add(one, other)
        elif reference is None or value is None:
            if reference is not value:
                self._mismatched("an empty optional against a full one")
        elif isinstance(reference, list | dict) or isinstance(value, list | dict):
            self._mismatched("a tensor against a sequence")
        else:
            self._add_tensors(np.asarray(reference), np.asarray(value))

    def _mismatched(self, what: str) -> None:
        self.bit_equal = self.close = False
        self.max_abs_diff = self.noise = math.inf
        self.mismatch = self.mismatch or what

    def _add_tensors(self, reference: Array, value: Array) -> None:
        if reference.dtype != value.dtype:
            self._mismatched(f"{value.dtype} instead of {reference.dtype}")
        elif reference.shape != value.shape:
            self._mismatched(f"shape {value.shape} instead of {reference.shape}")
        elif reference.dtype.kind in "OUS":
            differing = int(np.sum(reference != value))
            if differing:
                self._mismatched(f"{differing} of {reference.size} strings differ")
        else:
            self._add_numbers(reference, value)

    def _add_numbers(self, reference: Array, value: Array) -> None:
        largest = top = 0.0
        for one, other in _chunks(reference, value):
            ref, got = _wide(one), _wide(other)
            both_nan = np.isnan(ref) & np.isnan(got)
            same = both_nan | (one.view(_bits(one)) == other.view(_bits(other)))
            self.bit_equal = self.bit_equal and bool(same.all())
            infinite = np.isinf(ref) & (ref == got)
            finite = np.isfinite(ref) & np.isfinite(got)
            if not (finite | both_nan | infinite).all():
                self._mismatched("not finite where the reference is, or the other way round")
            d = np.abs(ref[finite] - got[finite])
            magnitudes = np.abs(ref[finite])
            largest = max(largest, float(d.max(initial=0.0)))
            top = max(top, float(magnitudes.max(initial=0.0)))
            with np.errstate(over="ignore"):
                self.signal += float(np.sum(magnitudes**2))
                self.noise += float(np.sum(d**2))
        self.max_abs_diff = max(self.max_abs_diff, largest)
        self.ref_max = max(self.ref_max, top)
        self.close = self.close and largest <= _RELATIVE * top + _ABSOLUTE


def signal_to_noise(reference: Any, value: Any) -> float:
    """SQNR in decibels of ``value`` against ``reference``; minus infinity where they cannot be compared.

    Example:
        >>> round(signal_to_noise(np.array([3.0, 4.0]), np.array([3.0, 4.5])), 1)
        20.0
    """
    difference = Difference()
    difference.add(reference, value)
    return difference.sqnr_db


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    if signal == 0 or math.isinf(noise):
        return -math.inf
    return 10 * math.log10(signal / noise)


def _chunks(reference: Array, value: Array) -> Iterator[tuple[Array, Array]]:
    flat = np.asarray(reference, order="C").reshape(-1), np.asarray(value, order="C").reshape(-1)
    for start in range(0, reference.size, _CHUNK):
        yield flat[0][start : start + _CHUNK], flat[1][start : start + _CHUNK]


def _wide(array: Array) -> Array:
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    return array.astype(np.float64)


def _bits(array: Array) -> np.dtype[Any]:
    """An integer type of the same width, to compare bit by bit; complex numbers by bytes."""
    size = array.dtype.itemsize
    return np.dtype(f"u{size}") if size <= 8 else np.dtype(f"V{size}")
