"""Candidates whose weights are stored in 4 bits where that brings little noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxslim._ir import ir
from onnxslim.calibration.data import DataLike
from onnxslim.passes.pack_integers import PackIntegers
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.candidate import Candidate
from onnxslim.recipes.engine import Step, run_steps
from onnxslim.recipes.storage import CODES_OPSET, EIGHT_BITS, Storage, Storing, inputs_of_weights
from onnxslim.reconstruct.blocks import Coded

__all__ = ["in_few_bits", "packed_in_few_bits"]

_LEVELS_DB = (20.0, 30.0)  # what few bits may leave of the outputs: at least, and where it is cheap
_BLOCK = 32  # weights that share a scale

Feeds = Sequence[Mapping[str, Any]]


def packed_in_few_bits(model: ir.Model, data: DataLike | None, feeds: Feeds) -> Iterator[Candidate]:
    """Weights of 4 bits, by GPTQ where there are data; computed in floats."""
    pack, name = PackWeights(bits=4, block=_BLOCK), "packed weights, 4 bits"
    if data is not None and (inputs := inputs_of_weights(model, data)) is not None:
        held_out = inputs_of_weights(model, list(feeds)) if feeds else None
        pack, name = replace(pack, inputs=inputs, held_out=held_out), name + " by GPTQ"
    candidate = Candidate(name, (RaiseOpset(opset=CODES_OPSET),), essential=PackWeights.name)
    yield from _stored(model, candidate, feeds, (PackIntegers(block=_BLOCK), pack))


def in_few_bits(model: ir.Model, candidate: Candidate, feeds: Feeds) -> Iterator[Candidate]:
    """A candidate that computes with integers, its weights stored in 4 bits."""
    forms = PackIntegers(block=_BLOCK), PackWeights(bits=4, block=_BLOCK)
    yield from _stored(model, replace(candidate, name=f"{candidate.name}, in 4 bits"), feeds, forms)


def _stored(
    model: ir.Model, candidate: Candidate, feeds: Feeds, forms: Sequence[Storing]
) -> Iterator[Candidate]:
    outcome = run_steps(model, candidate.head).model
    storage = Storage(outcome, feeds, (*forms, *EIGHT_BITS))
    steps = storage.steps(storage.knee(*_LEVELS_DB))
    if _narrows(outcome, steps):
        yield replace(candidate, packing=steps, storage=storage)


def _narrows(model: ir.Model, steps: Sequence[Step]) -> bool:
    """Whether any weight comes to have fewer than 8 bits."""
    few = [each for each in steps if isinstance(each, PackIntegers | PackWeights) and each.bits < 8]
    stored = [form for each in few for form in each.stored(model).values()]
    return any(isinstance(form, Coded) and form.bits < 8 for form in stored)
