"""Round the weight of a product to codes, by the inputs that it meets where these are known."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from onnxslim.analysis.reductions import Reduction
from onnxslim.calibration.store import Calibration
from onnxslim.reconstruct import vectors
from onnxslim.reconstruct.binary import Binary, binarize, damped
from onnxslim.reconstruct.blocks import Coded, View, round_blocks
from onnxslim.reconstruct.codebook import Codebook, share
from onnxslim.reconstruct.gptq import DAMPINGS, output_error, round_by_outputs
from onnxslim.reconstruct.rounding import sqnr_db
from onnxslim.reconstruct.scaled_codebook import share_by_outputs, share_scaled
from onnxslim.reconstruct.vectors import VectorCodebook, share_vectors

__all__ = ["Known", "coded", "in_vectors", "second_moments", "shared", "summed"]

Array = npt.NDArray[Any]
Stored = TypeVar("Stored", Binary, Codebook, VectorCodebook)

_FEW = 64  # values of a table with scales, beyond which what inputs show decides next to nothing
_DAMPING = 0.01  # of the mean importance: what inputs did not show is not for free


@dataclass(frozen=True)
class Known:
    """Codes that were found elsewhere for one weight.

    Attributes:
        codes: its form.
        sqnr_db: of the product's output.
        weight: what they were fitted to: another pass may give a weight of this name other values.
    """

    codes: Coded
    sqnr_db: float
    weight: Array

    def serves(self, weight: Array, bits: int) -> bool:
        """Whether these are codes of so many bits for this very weight."""
        return self.codes.bits == bits and np.array_equal(self.weight, weight)


def second_moments(
    product: Reduction, inputs: Calibration | None, held_out: Calibration | None
) -> dict[str, Array | None]:
    """``moments`` and ``held_out`` of what a weight is multiplied with, where they were kept and belong to it."""
    return {"moments": _moments(product, inputs), "held_out": _moments(product, held_out)}


def _moments(product: Reduction, calibration: Calibration | None) -> Array | None:
    total: Array | None = None
    for name in product.inputs if calibration is not None else ():
        products = calibration.states[name].products if calibration and name in calibration else None
        if products is None or len(products.matrix) != product.length:
            return None
        total = products.matrix if total is None else total + products.matrix
    return total if total is not None and total.any() else None


def coded(
    weight: Array,
    product: Reduction,
    view: View,
    bits: int,
    *,
    symmetric: bool = True,
    moments: Array | None = None,
    held_out: Array | None = None,
) -> tuple[Coded, float]:
    """Codes by GPTQ or rounding to nearest, and the signal to noise ratio that they leave, in dB.

    Args:
        weight: finite floats.
        product: what it is multiplied with.
        moments: ``X^T X`` of that, ``[length, length]``; without it, the ratio is that of the weight, else of
            the output.
        held_out: the same of data that nothing was fitted to.

    Returns:
        A ratio of minus infinity where the decoded weight is not finite.
    """
    if moments is None:
        codes = round_blocks(weight, view, bits, symmetric=symmetric)
    else:
        codes = round_by_outputs(weight, view, moments, bits, symmetric=symmetric, held_out=held_out)
    judge = moments if held_out is None else held_out
    decoded = codes.decode()
    if not np.isfinite(decoded).all():
        return codes, -math.inf
    return codes, _quality_db(weight, decoded, product, judge)


def shared(
    weight: Array,
    product: Reduction,
    view: View,
    entries: int,
    *,
    scaled: bool = False,
    moments: Array | None = None,
    held_out: Array | None = None,
) -> tuple[Codebook, float]:
    """The weight as tables of ``entries`` values, and the signal to noise ratio that is left, in dB.

    Args:
        weight: finite floats.
        product: what it is multiplied with.
        view: the weight in blocks that have a table each, or a scale each.
        scaled: there is one table, and a scale for each block.
        moments: ``X^T X`` of that; of tables with and without them, and of few values with scales found
            by GPTQ too, the one is kept that leaves least error of the output, and the ratio is the output's.
        held_out: the same of data that nothing was fitted to, to choose by; without them no GPTQ.
    """
    judge = moments if held_out is None else held_out
    search = share_scaled if scaled else share
    found = [search(weight, view, entries)]
    if moments is not None and not (scaled and entries > _FEW):
        sizes = (product.outer, product.length, product.inner)
        diagonal = np.diag(moments)
        importance = np.broadcast_to((diagonal + _DAMPING * diagonal.mean())[:, None], sizes)
        found.append(search(weight, view, entries, importance=importance))
        for damping in DAMPINGS if scaled and held_out is not None else ():  # it fits too well, without
            with contextlib.suppress(np.linalg.LinAlgError):
                found.append(share_by_outputs(weight, view, moments, entries, damping=damping))
    return _best(weight, found, product, judge)


def in_vectors(
    weight: Array,
    product: Reduction,
    entries: int,
    vector: int,
    *,
    spaces: bool = False,
    moments: Array | None = None,
    held_out: Array | None = None,
) -> tuple[VectorCodebook, float]:
    """The weight as few vectors of so many values, and the signal to noise ratio that is left, in dB.

    Args:
        vector: divides the length of the product.
        spaces: each place of a vector has a table of its own.

    The other arguments are those of :func:`shared`.
    """
    judge = moments if held_out is None else held_out
    view = View(product.outer, product.length, product.inner)
    found = [share_vectors(weight, view, entries, vector, spaces=spaces)]
    if moments is not None:
        for damping in DAMPINGS if held_out is not None else ():  # it fits too well, without
            with contextlib.suppress(np.linalg.LinAlgError):
                found.append(vectors.share_by_outputs(weight, view, moments, found[0], damping=damping))
    return _best(weight, found, product, judge)


def summed(
    weight: Array,
    product: Reduction,
    view: View,
    bases: int,
    *,
    moments: Array | None = None,
    held_out: Array | None = None,
) -> tuple[Binary, float]:
    """The weight as sums of signs, and the signal to noise ratio that is left, in dB.

    The arguments are those of :func:`coded`.
    """
    judge = moments if held_out is None else held_out
    forms = [binarize(weight, view, bases)]
    if moments is not None:
        forms += [binarize(weight, view, bases, each) for each in damped(moments)]
    return _best(weight, forms, product, judge)


def _best(
    weight: Array, forms: Sequence[Stored], product: Reduction, judge: Array | None
) -> tuple[Stored, float]:
    """The form that leaves the least noise, and its signal to noise ratio."""
    qualities = [_quality_db(weight, form.decode(), product, judge) for form in forms]
    best = int(np.argmax(qualities))
    return forms[best], qualities[best]


def _quality_db(weight: Array, decoded: Array, product: Reduction, moments: Array | None) -> float:
    """Signal to noise of the product's output where the inputs are known, else of the weight."""
    if moments is None:
        return sqnr_db(weight, decoded)
    view = View(product.outer, product.length, product.inner)
    signal = output_error(weight, np.zeros_like(weight), view, moments)
    noise = output_error(weight, decoded, view, moments)
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else math.inf
