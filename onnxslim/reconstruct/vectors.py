"""Product quantization: runs of weights become one of few vectors, stored as a table and the index into it.

Jegou, Douze and Schmid, "Product quantization for nearest neighbor search", 2011, with the norm of each row
apart (Sabin and Gray, "Product code vector quantizers for waveform and voice coding", 1984).  The vectors are
those of k-means; where the inputs are known, they are chosen one after another by what the outputs lose, each
making good what the ones before it lost (van Baalen et al., "GPTVQ: the blessing of dimensionality for LLM
quantization", 2024).  The table itself is not weighed by the inputs (as in Stock et al., "And the bit goes
down", 2020): where a few of them are huge and hardly change, it would serve these alone, and 10 dB are lost.
It is learned from a sample; every search is deterministic.  Numbers in, numbers out: nothing here knows of
graphs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.reconstruct.blocks import View
from onnxslim.reconstruct.codebook import code_bits
from onnxslim.reconstruct.gptq import hand_on, inverse_factor

__all__ = ["VectorCodebook", "learn_vectors", "nearest_vectors", "share_by_outputs", "share_vectors"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_STEPS = 16  # of Lloyd; later ones gain next to nothing
_ROUNDS = 2  # of vectors and scales in turn
_SAMPLE = 1 << 15  # vectors that a table is learned from
_ELEMENTS = 1 << 21  # that are fitted at a time: bounds the memory
_SCORES = 1 << 22  # of vectors against a table that are held at a time
_LARGEST = float(np.finfo(np.float16).max)
_LEAST, _MOST = 64 * float(np.finfo(np.float16).smallest_subnormal), _LARGEST / 2


@dataclass(frozen=True)
class VectorCodebook:
    """A weight whose columns are put together of few vectors: ``scale * table[space, code]``.

    Attributes:
        codes: uint8 below ``2 ** bits``, ``[outer, spaces, inner]``.
        table: float16, ``[spaces, entries, vector]``, or ``[1, entries, vector]`` for all spaces.
        scale: float16 or float32, ``[outer, inner]``.
        bits: of a code: 1, 2, 4 or 8.
        shape: of the weight.
    """

    codes: npt.NDArray[np.uint8]
    table: npt.NDArray[np.float16]
    scale: Array
    bits: int
    shape: tuple[int, ...]

    def decode(self) -> Floats:
        """The weight as it is looked up in the table, in float32."""
        space = np.arange(len(self.table))[:, None]
        found = np.moveaxis(self.table.astype(np.float32)[space, self.codes], 3, 2)
        weight: Floats = found * self.scale.astype(np.float32)[:, None, None, :]
        return weight.reshape(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts, the codes packed."""
        return int(-(-self.codes.size * self.bits // 8) + self.table.nbytes + self.scale.nbytes)


def share_vectors(
    weight: Array,
    view: View,
    entries: int,
    vector: int,
    *,
    spaces: bool = False,
) -> VectorCodebook:
    """The table of ``entries`` vectors and the scales that leave little squared error.

    Args:
        weight: finite floats, of as many elements as the view.
        view: each column has a scale, and is cut into vectors along what is summed up.
        entries: 2 to 256.
        vector: weights that one index stands for; divides the length.
        spaces: vectors at different places of a column have tables of their own.

    Example:
        >>> book = share_vectors(np.array([[1, 2, 2, 4], [3, 1, 3, 1]], dtype="f"), View(2, 4, 1), 2, 2)
        >>> book.codes.ravel().tolist(), bool(np.allclose(book.decode()[1], [3, 1, 3, 1], rtol=1e-3))
        ([1, 1, 0, 0], True)
    """
    rows = view.columns(weight).T
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), _rows_of_sample(view, vector, spaces)))
    unit = _normed(rows[np.unique(chosen.astype(np.int64))])
    if spaces:
        cuts = [np.s_[:, start : start + vector] for start in range(0, view.length, vector)]
        table = np.stack([learn_vectors(unit[cut], entries) for cut in cuts])
    else:
        table = learn_vectors(unit.reshape(-1, vector), entries)[None]
    stored = np.clip(table, -_LARGEST, _LARGEST).astype(np.float16)
    step = max(_ELEMENTS // view.length, 1)
    parts = [_fit(rows[start : start + step], stored) for start in range(0, len(rows), step)]
    codes = np.concatenate([part[0] for part in parts]).reshape(view.outer, view.inner, -1)
    scale = np.concatenate([part[1] for part in parts]).reshape(view.outer, view.inner)
    return VectorCodebook(
        np.ascontiguousarray(np.moveaxis(codes, 2, 1)),
        stored,
        _as_stored(scale),
        code_bits(entries),
        weight.shape,
    )


def share_by_outputs(
    weight: Array, view: View, moments: Array, known: VectorCodebook, *, damping: float = 0.01
) -> VectorCodebook:
    """The same tables and scales, with vectors chosen one after another, each making good what was lost.

    Args:
        moments: ``X^T X`` over the inputs that the weight is multiplied with, ``[length, length]``.
        known: the weight as :func:`share_vectors` stores it.
        damping: added to the diagonal, as a share of its mean.

    Raises:
        numpy.linalg.LinAlgError: ``moments`` is not positive definite, however much it is damped.

    Example:
        >>> from onnxslim.reconstruct.gptq import output_error
        >>> x = np.random.default_rng(0).normal(size=(256, 1)) + np.arange(1, 9) / 20
        >>> w, view = np.random.default_rng(1).normal(size=(8, 64)), View(1, 8, 64)
        >>> nearest = share_vectors(w, view, 16, 2)
        >>> ours = share_by_outputs(w, view, x.T @ x, nearest)
        >>> output_error(w, ours.decode(), view, x.T @ x) < output_error(w, nearest.decode(), view, x.T @ x)
        True
    """
    factor, work = inverse_factor(moments, damping), view.columns(weight.astype(np.float64))
    scale = known.scale.astype(np.float64).reshape(-1)
    wide = np.where(scale == 0, 1, scale)
    vector = known.table.shape[2]
    codes = np.zeros((view.length // vector, work.shape[1]), np.uint8)
    made = np.zeros((vector, work.shape[1]))

    def rounded(row: int) -> Array:
        space, at = divmod(row, vector)
        if at == 0:  # what this vector loses, once later ones have made good what they can
            table = known.table[space % len(known.table)].astype(np.float64)
            metric = np.linalg.inv(factor[row : row + vector, row : row + vector])
            codes[space] = nearest_vectors((work[row : row + vector] / wide).T @ metric, table @ metric)
            made[:] = table[codes[space]].T * scale
        return np.asarray(made[at])

    hand_on(work, factor, view.length, lambda start: None, rounded)
    cubes = codes.reshape(-1, view.outer, view.inner)
    return replace(known, codes=np.ascontiguousarray(np.moveaxis(cubes, 1, 0)))


def learn_vectors(values: Array, entries: int) -> Floats:
    """The centers of k-means (Lloyd, "Least squares quantization in PCM", 1982), ``[entries, vector]``.

    Args:
        values: ``[n, vector]``.

    Example:
        >>> sorted(learn_vectors(np.array([[1, 1], [1, 2], [8, 9], [8, 8]]), 2).tolist())
        [[1.0, 1.5], [8.0, 8.5]]
    """
    values = values.astype(np.float32)
    centers = _first_centers(values, entries)
    known: Array | None = None
    for _ in range(_STEPS):
        codes = nearest_vectors(values, centers)
        if known is not None and np.array_equal(codes, known):
            break
        known = codes
        counts = np.bincount(codes, minlength=entries)
        sums = np.stack([np.bincount(codes, column, entries) for column in values.T], axis=1)
        centers = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        empty = np.flatnonzero(counts == 0)
        if len(empty):  # they go where the error is largest
            error = np.square(values - centers[codes]).sum(axis=1)
            centers[empty] = values[np.resize(np.argsort(-error, kind="stable"), len(empty))]
    return centers


def _first_centers(values: Floats, entries: int) -> Floats:
    """Values, each drawn by how far it is from those before it.

    Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007; 0.5 dB here.
    """
    random = np.random.default_rng(0)
    left = np.full(len(values), np.inf)
    chosen = [int(random.integers(len(values)))]
    for _ in range(entries - 1):
        left = np.minimum(left, np.square(values - values[chosen[-1]]).sum(axis=1))
        passed = np.cumsum(left)
        chosen.append(min(int(np.searchsorted(passed, passed[-1] * random.random())), len(values) - 1))
    return values[chosen]


def nearest_vectors(values: Array, table: Array) -> npt.NDArray[np.uint8]:
    """The index of the nearest of at most 256 vectors.

    Args:
        values: ``[n, vector]``.
        table: ``[entries, vector]``.

    Example:
        >>> nearest_vectors(np.array([[0, 1], [4, 5]]), np.array([[4, 4], [0, 0]])).tolist()
        [1, 0]
    """
    found = np.empty(len(values), np.uint8)
    half, step = np.square(table).sum(axis=1) / 2, max(_SCORES // len(table), 1)
    for start in range(0, len(values), step):
        at = np.s_[start : start + step]
        found[at] = (values[at] @ table.T - half).argmax(axis=1)
    return found


def _fit(rows: Array, table: Array) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Vectors ``[n, spaces]`` and the scale of each row, found in turn."""
    levels, vector = table.astype(np.float32), table.shape[2]
    unit = _normed(rows)
    for _ in range(_ROUNDS):
        if len(levels) == 1:
            codes = nearest_vectors(unit.reshape(-1, vector), levels[0]).reshape(len(rows), -1)
        else:
            cuts = (unit[:, vector * at : vector * (at + 1)] for at in range(len(levels)))
            found = [nearest_vectors(cut, level) for cut, level in zip(cuts, levels, strict=True)]
            codes = np.stack(found, axis=1)
        made = levels[np.arange(len(levels)), codes].reshape(rows.shape).astype(np.float64)
        norm = np.square(made).sum(axis=1)
        scale = (made * rows).sum(axis=1) / np.where(norm > 0, norm, 1)
        unit = np.asarray(rows / np.where(scale == 0, 1, scale)[:, None], np.float32)
    return codes, scale.astype(np.float32)


def _normed(rows: Array) -> Floats:
    """Rows of mean square 1."""
    size = np.sqrt(np.square(rows.astype(np.float64)).mean(axis=1))
    return np.asarray(rows / np.where(size == 0, 1, size)[:, None], np.float32)


def _rows_of_sample(view: View, vector: int, spaces: bool) -> int:
    """So many that each table sees a sample."""
    return max(_SAMPLE // 4 if spaces else _SAMPLE * vector // view.length, 1)


def _as_stored(scale: Floats) -> Array:
    size = np.abs(scale)
    half = np.all((size == 0) | ((size > _LEAST) & (size < _MOST)))
    return scale.astype(np.float16) if half else scale
