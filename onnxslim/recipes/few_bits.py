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
from onnxslim.recipes.fitted_weights import Fitted, fitted_codes, fitted_integers
from onnxslim.recipes.pruning.samples import Samples, held
from onnxslim.recipes.storage import CODES_OPSET, EIGHT_BITS, Storage, Storing, inputs_of_weights
from onnxslim.reconstruct.blocks import Coded

__all__ = ["Moments", "binary_weights", "in_blocks", "in_few_bits", "moments_of", "packed_in_few_bits"]

_LEAST_DB = {4: 20.0, 2: 9.0}  # what few bits may leave of the outputs, by their number
_HIGH_DB = 30.0  # and where that is cheap
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
    model: ir.Model, bits: int, moments: Moments, feeds: Feeds, data: DataLike | None = None
) -> Iterator[Candidate]:
    """Weights of 4 bits, or of 2 where they bear it, computed in floats."""
    head = (RaiseOpset(opset=CODES_OPSET),)
    base, rungs = run_steps(model, head).model, _rungs(bits)
    known: Sequence[Fitted] = [{} for _ in rungs]
    if data is not None:
        known = fitted_codes(base, _samples(data, base), rungs, _BLOCK)
    pack = PackWeights(block=_BLOCK, inputs=moments.inputs, held_out=moments.held_out)
    packs = [
        replace(pack, bits=few, narrow_sqnr_db=_gate(few), known=codes)
        for few, codes in zip(rungs, known, strict=True)
    ]
    candidate = Candidate(f"packed weights, {rungs[0]} bits{moments.label}", head, essential=PackWeights.name)
    yield from _stored(model, candidate, feeds, (PackIntegers(block=_BLOCK), *packs, *EIGHT_BITS), rungs[0])


def _samples(data: DataLike, model: ir.Model) -> Samples:
    return held(open_feeds(data, model).spread(_SAMPLES))


def _rungs(bits: int) -> tuple[Literal[4, 2], ...]:
    """The numbers of bits to choose from, where so few were asked for."""
    return (2, 4) if bits == 2 else (4,)


def _gate(bits: int) -> float:
    """The least ratio of signal to noise of a weight: for 2 bits it is measured at the outputs."""
    return 0.0 if bits == 2 else PackWeights.narrow_sqnr_db


def binary_weights(
    model: ir.Model, bases: int, data: DataLike | None, moments: Moments, feeds: Feeds
) -> Iterator[Candidate]:
    """Weights that are sums of at most ``bases`` signs, with 4 and more bits as further rungs."""
    if data is None or not feeds:
        return
    head = (RaiseOpset(opset=CODES_OPSET),)
    base = run_steps(model, head).model
    signs = Signs(base, _samples(data, base), bases)
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
    model: ir.Model, candidate: Candidate, bits: int, feeds: Feeds, data: DataLike | None = None
) -> Iterator[Candidate]:
    """A candidate that computes with integers, its weights stored in 4 bits, or in 2 where they bear it."""
    rungs = _rungs(bits)
    known: Sequence[Fitted] = [{} for _ in rungs]
    if data is not None:
        base = _in_float(model, candidate)
        quantized = run_steps(model, candidate.head).model
        known = fitted_integers(base, quantized, _samples(data, base), rungs, _BLOCK)
    packs = [
        PackIntegers(bits=few, block=_BLOCK, narrow_sqnr_db=_gate(few), known=codes)
        for few, codes in zip(rungs, known, strict=True)
    ]
    forms: tuple[Storing, ...] = (*packs, PackWeights(bits=4, block=_BLOCK), *EIGHT_BITS)
    named = replace(candidate, name=f"{candidate.name}, in {rungs[0]} bits")
    yield from _stored(model, named, feeds, forms, rungs[0])


def _in_float(model: ir.Model, candidate: Candidate) -> ir.Model:
    """What the weights of a candidate were before they became integers."""
    head = [step for step in candidate.head if not isinstance(step, QuantizeStatic)]
    base = edit.copy_of(run_steps(model, head).model)
    for step in candidate.head:
        if isinstance(step, QuantizeStatic):
            scale_channels(base, step.factors)
    return base


def _stored(
    model: ir.Model, candidate: Candidate, feeds: Feeds, forms: Sequence[Storing], bits: int = 4
) -> Iterator[Candidate]:
    outcome, low, high = run_steps(model, candidate.head).model, _LEAST_DB[bits], _HIGH_DB
    storage = Storage(outcome, feeds, forms)
    if bits == 2:
        storage.levels = (*np.arange(low, storage.levels[0], 3.0).tolist(), *storage.levels)
        if not storage.is_measured:  # then 4 bits at least
            storage.forms = [form for form in forms if getattr(form, "bits", 8) != 2]
    steps = storage.steps(storage.knee(low, high))
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
