"""Weights of few bits, rounded by GPTQ to what each product gave on the data, one product after another.

What a filter is multiplied with are patches of its input, whose second moments are as large as the filter is
long, squared: they are summed up for a few products at a time, and only the codes are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.linears import Product, products_of
from onnxslim.model import edit
from onnxslim.ops.registry import is_dequantize
from onnxslim.passes._rounding import Known
from onnxslim.passes.codebook_weights import CodebookWeights
from onnxslim.passes.quantize_vectors import QuantizeVectors
from onnxslim.recipes.pruning.reconstruct import observed
from onnxslim.recipes.pruning.samples import Samples
from onnxslim.reconstruct.blocks import Coded, View
from onnxslim.reconstruct.gptq import output_error, round_by_outputs
from onnxslim.reconstruct.ridge import Sums
from onnxslim.runtime.client import open_worker

__all__ = ["Fitted", "fitted_books", "fitted_codes", "fitted_integers"]

Array = npt.NDArray[Any]
Tables = CodebookWeights | QuantizeVectors
Fitted = Mapping[str, Known]  # by the name of the weight

_FEW_OUTPUTS = 8  # of a group; below there is nothing to gain from the inputs of so few
_ROUNDED = 1.0  # steps from floats to the integers that stand for them, as a mean; 0.25 to the nearest ones


def fitted_codes(model: ir.Model, samples: Samples, bits: Sequence[int], block: int) -> list[Fitted]:
    """Codes of the float filters of convolutions with more than one element.

    (Products along one axis need no patches: ``pack-weights`` rounds them itself.)

    Args:
        model: stays as it is.
        samples: inputs; a part of them decides how much the second moments are damped, and gives the ratio.
        bits: of a code, several numbers.
        block: values that share a scale, about.

    Returns:
        The codes for each number of bits.
    """
    found: list[dict[str, Known]] = [{} for _ in bits]
    for product, sums, held_out in _observed(model, samples, _has_patches):
        for codes, few in zip(found, bits, strict=True):
            codes[product.weight.name or ""] = Known(
                *_coded(product, sums, held_out, few, block), _content(product)
            )
    return list(found)


def fitted_integers(
    model: ir.Model,
    quantized: ir.Model,
    samples: Samples,
    bits: Sequence[int],
    block: int,
    work: float = math.inf,
) -> list[Fitted]:
    """Codes of int8 weights, decoded to int8: fitted to the floats that the integers stand for.

    Args:
        model: in float.
        quantized: the same with int8 weights behind DequantizeLinear.
        work: cubes of the lengths of products, added up; the longest beyond that are left out.

    The other arguments are those of :func:`fitted_codes`.
    """
    integers = dict(_integers(model, quantized, work))
    found: list[dict[str, Known]] = [{} for _ in bits]
    for product, sums, held_out in _observed(model, samples, lambda each: each.weight.name in integers):
        name, q, scale = integers[product.weight.name]
        for codes, few in zip(found, bits, strict=True):
            codes[name] = Known(*_coded(product, sums, held_out, few, block, scale), q)
    return list(found)


def fitted_books(model: ir.Model, samples: Samples, forms: Sequence[Tables]) -> list[Tables]:
    """The same passes with tables for the filters of convolutions that are not in groups.

    The other arguments are those of :func:`fitted_codes`.
    """
    known: list[dict[str, Any]] = [{} for _ in forms]
    for product, sums, held_out in _observed(
        model, samples, lambda each: _has_patches(each) and each.dims[0] == 1
    ):
        length = product.dims[1]
        moments, judge = (each.inputs[0, :length, :length] for each in (sums, held_out))
        for found, form in zip(known, forms, strict=True):
            book = form.search(product.weight, moments, judge)
            if book is not None:
                found[product.weight.name or ""] = book
    merged: list[Any] = [{**form.known, **found} for form, found in zip(forms, known, strict=True)]
    return [replace(form, known=each) for form, each in zip(forms, merged, strict=True)]


def _observed(
    model: ir.Model, samples: Samples, only: Callable[[Product], bool]
) -> Iterator[tuple[Product, Sums, Sums]]:
    """Products with sums over their inputs, to fit on and held-out, where both say something."""
    with open_worker() as worker:
        for product, sums, held_out in observed(worker, model, samples, only=only):
            moments = (sums.inputs, held_out.inputs)
            if all(each.any() and np.isfinite(each).all() for each in (*moments, _content(product))):
                yield product, sums, held_out


def _is_fitted(product: Product) -> bool:
    return not product.linear.spread and product.dims[2] >= _FEW_OUTPUTS


def _has_patches(product: Product) -> bool:
    return _is_fitted(product) and math.prod(product.linear.kernel or ()) > 1


def _integers(
    model: ir.Model, quantized: ir.Model, work: float
) -> Iterator[tuple[str | None, tuple[str, Array, Array]]]:
    """Names of float weights -> the int8 weight that is each one rounded: its name, it, and its scales."""
    stored: list[tuple[str, Array, Array]] = []
    for node in filter(is_dequantize, quantized.graph):
        source = node.inputs[0]
        q, scale = edit.constant_value(source), edit.constant_value(node.inputs[1])
        if source is None or q is None or scale is None or q.dtype != np.int8 or q.ndim < 2:
            continue
        axis = node.attributes.get_int("axis", 1) % q.ndim
        across = [-1 if at == axis else 1 for at in range(q.ndim)]
        if scale.ndim <= 1:  # without blocks
            stored.append((source.name or "", q, scale.reshape(across)))
    for product in sorted(filter(_is_fitted, products_of(model)), key=lambda each: each.dims[1]):
        weight = _content(product)
        alike = [each for each in stored if each[1].shape == weight.shape]
        off = [float(np.abs(weight / scale - q).mean()) for _, q, scale in alike]
        if not off or min(off) > _ROUNDED:
            continue
        work -= float(product.dims[0]) * product.dims[1] ** 3
        if work >= 0:
            name, q, scale = alike[int(np.argmin(off))]
            yield product.weight.name, (name, q, np.broadcast_to(scale, q.shape))


def _content(product: Product) -> Array:
    weight = edit.constant_value(product.weight)
    assert weight is not None
    return weight


def _coded(
    product: Product, sums: Sums, held_out: Sums, bits: int, block: int, scale: Array | None = None
) -> tuple[Coded, float]:
    """Of one weight; with ``scale``, which lies along the outputs, as whole numbers of it."""
    groups, length, outputs = product.dims
    weight, whole = _content(product), scale is not None
    factors = np.broadcast_to(np.float32(1) if scale is None else scale, weight.shape)
    shape, view = (groups, length, outputs), View(1, length, outputs)
    if product.linear.outputs_first:
        shape, view = (groups, outputs, length), View(outputs, length, 1)
    parts, signal, noise = [], 0.0, 0.0
    for group, (real, factor) in enumerate(zip(weight.reshape(shape), factors.reshape(shape), strict=True)):
        moments, judge = (each.inputs[group, :length, :length] for each in (sums, held_out))
        part = round_by_outputs(
            real / factor, view.blocked(block), moments, bits, held_out=judge, whole=whole
        )
        signal += output_error(real, np.zeros_like(real), view, judge)
        noise += output_error(real, part.decode().reshape(real.shape) * factor, view, judge)
        parts.append(part)
    ratio = 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else math.inf
    return _joined(parts, product.shape), ratio


def _joined(parts: list[Coded], shape: tuple[int, ...]) -> Coded:
    """The codes of all groups, which have no zero points of their own."""
    codes = np.concatenate([part.codes for part in parts])
    return Coded(codes, np.concatenate([part.scale for part in parts]), parts[0].zero, parts[0].bits, shape)
