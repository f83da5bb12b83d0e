"""Candidates whose weights have fewer than 8 bits where that brings little noise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from onnxslim._ir import ir
from onnxslim.calibration.data import DataLike, open_feeds
from onnxslim.calibration.store import Calibration
from onnxslim.model import edit
from onnxslim.passes._scaling import scale_channels
from onnxslim.passes.binarize_weights import BinarizeWeights
from onnxslim.passes.pack_integers import PackIntegers
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.quantize_blocks import QuantizeBlocks
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.binary import Signs
from onnxslim.recipes.candidate import Candidate
from onnxslim.recipes.engine import Step, run_steps
from onnxslim.recipes.fitted_codes import fitted_codes, fitted_integers
from onnxslim.recipes.pruning.samples import held
from onnxslim.recipes.storage import CODES_OPSET, EIGHT_BITS, Storage, Storing, inputs_of_weights
from onnxslim.reconstruct.blocks import Coded

__all__ = ["Moments", "binary_weights", "in_blocks", "in_few_bits", "moments_of", "packed_in_few_bits"]

_LEVELS_DB = (20.0, 30.0)  # what few bits may leave of the outputs: at least, and where it is cheap
_BINARY_DB = tuple(float(level) for level in range(-18, 46, 3))  # before products are fitted in order
_SAMPLES = 512  # that products are fitted to
_BLOCK = 32  # weights that share a scale

Feeds = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Moments:
    """Second moments of what weights are multiplied with, for GPTQ; None where there are none."""

    inputs: Calibration | None = None
    held_out: Calibration | None = None

    @property
    def label(self) -> str:
        """For the name of a candidate."""
        return " by GPTQ" if self.inputs is not None else ""


def moments_of(model: ir.Model, data: DataLike | None, feeds: Feeds) -> Moments:
    """Those of ``data``, and of held-out ``feeds``."""
    inputs = inputs_of_weights(model, data) if data is not None else None
    if inputs is None:
        return Moments()
    return Moments(inputs, inputs_of_weights(model, list(feeds)) if feeds else None)


def packed_in_few_bits(
    model: ir.Model, moments: Moments, feeds: Feeds, data: DataLike | None = None
) -> Iterator[Candidate]:
    """Weights of 4 bits, computed in floats."""
    pack = PackWeights(bits=4, block=_BLOCK, inputs=moments.inputs, held_out=moments.held_out)
    head = (RaiseOpset(opset=CODES_OPSET),)
    if data is not None:
        base = run_steps(model, head).model
        samples = held(open_feeds(data, base).spread(_SAMPLES))
        pack = replace(pack, known=fitted_codes(base, samples, pack.bits, pack.block))
    candidate = Candidate(f"packed weights, 4 bits{moments.label}", head, essential=pack.name)
    yield from _stored(model, candidate, feeds, (PackIntegers(block=_BLOCK), pack, *EIGHT_BITS))


def binary_weights(
    model: ir.Model, bases: int, data: DataLike | None, moments: Moments, feeds: Feeds
) -> Iterator[Candidate]:
    """Weights that are sums of at most ``bases`` signs, with 4 and more bits as further rungs."""
    if data is None or not feeds:
        return
    head = (RaiseOpset(opset=CODES_OPSET),)
    base = run_steps(model, head).model
    signs = Signs(base, held(open_feeds(data, base).spread(_SAMPLES)), bases)
    pack = PackWeights(bits=4, block=_BLOCK, inputs=moments.inputs, held_out=moments.held_out)
    forms: tuple[Storing, ...] = (*signs.forms(), pack, *EIGHT_BITS)
    storage = Storage(base, feeds, forms, levels=_BINARY_DB, refit=signs.refit)
    steps = storage.steps(_BINARY_DB[0])
    if any(isinstance(step, BinarizeWeights) for step in steps):
        yield Candidate("binary weights", head, steps, essential=BinarizeWeights.name, storage=storage)


def in_blocks(model: ir.Model, bits: int, moments: Moments, feeds: Feeds) -> Iterator[Candidate]:
    """Weights that the kernel itself decodes, where a product has few rows: of few bits, and of 8."""
    eight = QuantizeBlocks(8, inputs=moments.inputs, held_out=moments.held_out, dims=_open_dims(model, feeds))
    if not eight.stored(model):
        return
    fewer: list[tuple[QuantizeBlocks, ...]] = []
    if bits == 1:
        fewer.append((replace(eight, bits=1, narrow_sqnr_db=0.0), replace(eight, bits=4)))
    elif bits < 8:
        fewer.append((replace(eight, bits=cast("Literal[4, 2]", bits)),))
    for few in (*fewer, ()):
        head = (RaiseOpset(opset=(*few, eight)[0].min_opset),)
        name = "weights in blocks" + (f", {bits} bits{moments.label}" if few else "")
        yield from _stored(model, Candidate(name, head, essential=eight.name), feeds, (*few, eight))


def in_few_bits(
    model: ir.Model, candidate: Candidate, feeds: Feeds, data: DataLike | None = None
) -> Iterator[Candidate]:
    """A candidate that computes with integers, its weights stored in 4 bits."""
    integers = PackIntegers(block=_BLOCK)
    if data is not None:
        base = _in_float(model, candidate)
        samples = held(open_feeds(data, base).spread(_SAMPLES))
        quantized = run_steps(model, candidate.head).model
        known = fitted_integers(base, quantized, samples, integers.bits, integers.block)
        integers = replace(integers, known=known)
    forms = (integers, PackWeights(bits=4, block=_BLOCK), *EIGHT_BITS)
    yield from _stored(model, replace(candidate, name=f"{candidate.name}, in 4 bits"), feeds, forms)


def _in_float(model: ir.Model, candidate: Candidate) -> ir.Model:
    """What the weights of a candidate were before they became integers."""
    head = [step for step in candidate.head if not isinstance(step, QuantizeStatic)]
    base = edit.copy_of(run_steps(model, head).model)
    for step in candidate.head:
        if isinstance(step, QuantizeStatic):
            scale_channels(base, step.factors)
    return base


def _stored(
    model: ir.Model, candidate: Candidate, feeds: Feeds, forms: Sequence[Storing]
) -> Iterator[Candidate]:
    outcome = run_steps(model, candidate.head).model
    storage = Storage(outcome, feeds, forms)
    steps = storage.steps(storage.knee(*_LEVELS_DB))
    if candidate.essential == QuantizeBlocks.name or _narrows(outcome, steps):
        yield replace(candidate, packing=steps, storage=storage)


def _narrows(model: ir.Model, steps: Sequence[Step]) -> bool:
    """Whether any weight comes to have fewer than 8 bits."""
    few = [each for each in steps if isinstance(each, PackIntegers | PackWeights) and each.bits < 8]
    stored = [form for each in few for form in each.stored(model).values()]
    return any(isinstance(form, Coded) and form.bits < 8 for form in stored)


def _open_dims(model: ir.Model, feeds: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The largest size in ``feeds`` of each dimension that the model names."""
    sizes: dict[str, int] = {}
    for value, feed in itertools.product(model.graph.inputs, feeds):
        for dim, size in zip(value.shape or (), np.shape(feed.get(value.name or "", ())), strict=False):
            if isinstance(dim, ir.SymbolicDim) and dim.value:
                sizes[dim.value] = max(size, sizes.get(dim.value, 1))
    return sizes
