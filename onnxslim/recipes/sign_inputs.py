"""Binary activations: which products may read signs inside the budget, told by held-out noise.

A last step, on the model that won the search.  One session tells what each product costs alone: behind every
input stands a switch that lets it, or its sign, through.  Those that cost least are taken, as many as the
judge accepts; then the result has to be as fast as any other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.constants import constant_sources
from onnxslim.analysis.shapes import infer
from onnxslim.calibration.data import DataLike
from onnxslim.calibration.runner import calibrate
from onnxslim.model import edit
from onnxslim.passes.base import Decline
from onnxslim.passes.binarize_activations import MIN_OPSET, BinarizeActivations, multiplied
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.engine import Outcome, run_steps
from onnxslim.recipes.noise import noise_to_signal
from onnxslim.recipes.search import Search, Trial
from onnxslim.reconstruct.signs import Levels, two_levels
from onnxslim.runtime.client import Worker

__all__ = ["SignInputs", "sign_inputs"]

Feeds = Sequence[Mapping[str, Any]]

_FEEDS, _SECONDS = 8, 40.0  # feeds that noise is measured on: so many, or fewer where they take longer
_TOO_NOISY = "its input as signs leaves {:.0f} dB alone, too little"
_NAMED = 12  # products that a note lists


@dataclass(frozen=True)
class SignInputs:
    """The trial, None where no product reads signs; what the passes did; sentences about it."""

    trial: Trial | None
    outcome: Outcome
    notes: tuple[str, ...]


def sign_inputs(model: ir.Model, data: DataLike, search: Search, worker: Worker, feeds: Feeds) -> SignInputs:
    """Let products read signs where the held-out feeds accept it.

    Args:
        model: the winner of the search.
        data: what levels are fitted on.
        search: judges and measures.
        feeds: held-out inputs.
    """
    base = run_steps(model, (RaiseOpset(opset=MIN_OPSET),)).model
    levels, sizes = _levels(base, data)
    total = len(levels)
    if not levels:
        return SignInputs(None, Outcome(model), ("binary activations: there is no product of float32",))
    noise = _noises(worker, base, levels, feeds)
    order = sorted(levels, key=lambda name: noise[name])

    def made(names: Sequence[str]) -> Outcome:
        known = {name: levels[name] for name in names}
        return run_steps(base, (BinarizeActivations(known),))

    low, high = 0, total  # so many are accepted, and more than so many are not
    while low < high:
        middle = (low + high + 1) // 2
        if search.judge.score(made(order[:middle]).model).rejected is None:
            low = middle
        else:
            high = middle - 1
    chosen, reasons = (
        order[:low],
        dict.fromkeys(order[low:], _TOO_NOISY),
    )
    trial: Trial | None = None
    while chosen:
        outcome = made(chosen)
        trial = search.admit(f"binary activations, {_counted(len(chosen))}", outcome.model)
        if trial.rejected is None:
            break
        smallest = sorted(chosen, key=lambda name: sizes[name])[: len(chosen) // 2]  # the others take time
        reasons |= dict.fromkeys(set(chosen) - set(smallest), trial.rejected)
        chosen = [name for name in chosen if name in smallest]
    declined = [
        Decline(BinarizeActivations.name, name, reason.format(_db(noise[name])))
        for name, reason in reasons.items()
    ]
    if not chosen or trial is None:
        best = f"; the best alone leaves {_db(noise[order[0]]):.0f} dB" if not low else ""
        why = f": {trial.rejected}" if trial is not None else best
        note = f"binary activations: none of {_counted(total)} reads signs{why}"
        return SignInputs(None, Outcome(model, declined=declined), (note,))
    listed = ", ".join(chosen[:_NAMED]) + (f" and {len(chosen) - _NAMED} more" if chosen[_NAMED:] else "")
    note = f"binary activations: {len(chosen)} of {_counted(total)} read signs: {listed}"
    return SignInputs(trial, replace(outcome, declined=declined), (note,))


def _levels(model: ir.Model, data: DataLike) -> tuple[dict[str, Levels], dict[str, int]]:
    """The two levels of the input of each product with a constant weight, by the output of its node, and how
    many values were seen of it."""
    shapes, constant = infer(model), constant_sources(model)
    read: dict[str, str] = {}
    for node in model.graph:
        value = multiplied(node, shapes)
        is_product = value is not None and value not in constant and node.inputs[1] in constant
        if value is not None and is_product and value.name and node.outputs[0].name:
            read[node.outputs[0].name] = value.name
    if not read:
        return {}, {}
    seen = calibrate(model, data, tensors=set(read.values()))
    levels: dict[str, Levels] = {}
    for product, name in read.items():
        histogram = seen.histogram(name) if name in seen else None
        found = None if histogram is None else two_levels(histogram.centres, histogram.counts)
        if found is not None and np.isfinite(np.array([found.low, found.high], np.float32)).all():
            levels[product] = found
    return levels, {name: seen.histogram(read[name]).total for name in levels}


def _noises(worker: Worker, model: ir.Model, levels: Mapping[str, Levels], feeds: Feeds) -> dict[str, float]:
    """Noise over signal that signs in front of each product alone bring in."""
    switched, gates = _switched(model, levels)
    shut = dict.fromkeys(gates.values(), np.zeros((), np.float32))
    with worker.load(switched, optimize="all") as session:
        begun = time.monotonic()
        session.run({**feeds[0], **shut})
        each = max(time.monotonic() - begun, 1e-6)
        some = feeds[: min(max(math.floor(_SECONDS / (each * (len(gates) + 1))), 1), _FEEDS)]
        reference = [session.run({**feed, **shut}) for feed in some]
        found = {}
        for name, gate in gates.items():
            opened = {**shut, gate: np.ones((), np.float32)}
            ratio = noise_to_signal(reference, [session.run({**feed, **opened}) for feed in some])
            found[name] = ratio if math.isfinite(ratio) else math.inf
    return found


def _switched(model: ir.Model, levels: Mapping[str, Levels]) -> tuple[ir.Model, dict[str, str]]:
    """The model with an input for each product, 1 where it shall read signs and 0 where not."""
    switched = run_steps(model, (BinarizeActivations(levels),)).model
    graph = switched.graph
    gates: dict[str, str] = {}
    for node in list(graph):
        name = node.outputs[0].name or "" if node.outputs else ""
        if name not in levels:
            continue
        sign = node.inputs[0]
        maker = sign.producer() if sign is not None else None
        above = maker.inputs[0] if maker is not None else None
        compared = above.producer() if above is not None else None
        assert sign is not None and compared is not None
        gate = ir.Value(
            name=edit.unique_name(graph, f"{name}_gate"),
            shape=ir.Shape([]),
            type=ir.TensorType(ir.DataType.FLOAT),
        )
        graph.inputs.append(gate)
        value = compared.inputs[0]
        assert value is not None and gate.name is not None
        moved = edit.new_node("Sub", [sign, value], {})
        part = edit.new_node("Mul", [moved.outputs[0], gate], {})
        mixed = edit.new_node("Add", [value, part.outputs[0]], {})
        for new in (moved, part, mixed):
            new.outputs[0].name = edit.unique_name(graph, f"{name}_mixed")
        graph.insert_before(node, [moved, part, mixed])
        node.replace_input_with(0, mixed.outputs[0])
        gates[name] = gate.name
    return switched, gates


def _counted(products: int) -> str:
    return f"{products} product{'s' * (products != 1)}"


def _db(noise: float) -> float:
    return -10 * math.log10(noise) if noise > 0 else math.inf
