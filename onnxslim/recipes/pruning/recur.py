"""Let the hidden units that stay in a recurrent layer stand in for those that went, in what it feeds back.

The gates get ``R h + b`` of the state before.  The units that stay are followed in the original, and a new R
and b are fitted by which they give the gates what all units gave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.linears import owned
from onnxslim.model import edit
from onnxslim.ops.recurrent import recurrence_of
from onnxslim.recipes.pruning.refitted import Refitted
from onnxslim.recipes.pruning.rows import row_feed, wanted_output
from onnxslim.recipes.pruning.samples import Samples
from onnxslim.reconstruct.ridge import Sums, fit, with_ones
from onnxslim.runtime.client import Worker

__all__ = ["Recurrent", "recurrent_of", "refit_recurrent"]

Array = npt.NDArray[Any]

_ROWS = 8192
_HELD_OUT = 4  # every so manieth sample chooses the damping


@dataclass(frozen=True)
class Recurrent:
    """One recurrent layer of the main graph with stored weights of its own."""

    node: ir.Node
    gates: int

    @property
    def weight(self) -> ir.Value:
        """R, ``[directions, gates * hidden, hidden]``."""
        value = self.node.inputs[2]
        assert value is not None
        return value

    @property
    def name(self) -> str:
        """The name of R."""
        return self.weight.name or ""

    @property
    def bias(self) -> ir.Value | None:
        """B, ``[directions, 2 * gates * hidden]``: of the input, then of the state."""
        return self.node.inputs[3] if len(self.node.inputs) > 3 else None


def recurrent_of(model: ir.Model) -> Iterator[Recurrent]:
    """Those of a model, in the order of the graph."""
    for node in model.graph:
        gates = recurrence_of(node)
        stored = [value for value in node.inputs[2:4] if value is not None] if gates else []
        if stored and all(owned(value) and value.dtype == ir.DataType.FLOAT for value in stored):
            yield Recurrent(node, gates)


def refit_recurrent(
    worker: Worker,
    original: ir.Model,
    model: ir.Model,
    feeds: Samples,
    kept: Mapping[str, npt.NDArray[np.int64]],
    seed: int = 0,
) -> Iterator[Refitted]:
    """Fit the layers of ``model`` that lost hidden units, in place.

    Args:
        kept: by the name of R, the units of the original that a layer still has.
    """
    layers = {layer.name: layer for layer in recurrent_of(original) if layer.name in kept}
    pruned = {layer.name: layer for layer in recurrent_of(model)}
    layers = {name: layer for name, layer in layers.items() if name in pruned}
    if not layers:
        return
    observed, names = _observed(original, layers)
    wanted = [
        wanted_output(name, -1, _ROWS, len(feeds), seed) for states in names.values() for name in states
    ]
    sums = {name: _Sums(layer, kept[name], len(names[name])) for name, layer in layers.items()}
    for number, rows in enumerate(row_feed(worker, observed, feeds, wanted)):
        left = iter(rows)
        for name, states in names.items():
            sums[name].add([next(left) for _ in states], number % _HELD_OUT == _HELD_OUT - 1)
    for name, layer in pruned.items():
        if name in sums:
            yield sums[name].fitted(layer)


def _observed(original: ir.Model, layers: Mapping[str, Recurrent]) -> tuple[ir.Model, dict[str, list[str]]]:
    """A copy that has the states of each direction as values, and their names by that of R."""
    copy = original.clone()
    edit.know_names(copy)
    names: dict[str, list[str]] = {}
    for layer in list(recurrent_of(copy)):
        if layer.name not in layers:
            continue
        states = layer.node.outputs[0]
        states.name = states.name or edit.unique_name(copy, "states")
        weight = edit.constant_value(layer.weight)
        assert weight is not None
        for direction in range(len(weight)):
            index = edit.add_initializer(copy.graph, np.array(direction, np.int64), "direction")
            taken = edit.new_node("Gather", [states, index], {"axis": 1})
            taken.outputs[0].name = edit.unique_name(copy, "states")
            copy.graph.insert_after(layer.node, [taken])
            names.setdefault(layer.name, []).append(taken.outputs[0].name)
    return copy, names


class _Sums:
    """Of the states of one layer, for each direction: what stays, and what all of it gives the gates."""

    def __init__(self, layer: Recurrent, kept: npt.NDArray[np.int64], directions: int) -> None:
        weight = edit.constant_value(layer.weight)
        assert weight is not None
        hidden = weight.shape[2]
        rows = (hidden * np.arange(layer.gates)[:, None] + kept).reshape(-1)
        self._kept, self._weight = kept, weight[:, rows].astype(np.float64)
        self._bias = layer.bias is not None
        shape = (directions, len(kept) + self._bias, len(rows))
        self._sums = (Sums.empty(*shape), Sums.empty(*shape))

    def add(self, states: list[Array], held_out: bool) -> None:
        """Rows of states, ``[rows, hidden]`` for each direction."""
        h = np.stack(states).astype(np.float64)
        x, y = h[:, :, self._kept], h @ self._weight.swapaxes(1, 2)
        self._sums[held_out].add(with_ones(x) if self._bias else x, y)

    def fitted(self, layer: Recurrent) -> Refitted:
        """Write what was fitted into the smaller layer."""
        sums, held_out = self._sums
        weight, bias = edit.constant_value(layer.weight), edit.constant_value(layer.bias)
        assert weight is not None
        present = weight.swapaxes(1, 2).astype(np.float64)
        if bias is not None:  # what is added to that of the state
            present = np.concatenate([present, np.zeros((len(present), 1, present.shape[2]))], axis=1)
        found = fit(sums, held_out, present, bias=bias is not None)
        energy = max(float(held_out.energy.sum()), float(np.finfo(np.float64).tiny))
        before, after = found.before / energy, found.after / energy
        if found.damping is None:
            return Refitted(layer.name, before, after, None, "nothing is better on held-out samples")
        units = weight.shape[2]
        fitted = np.ascontiguousarray(found.weight[:, :units].swapaxes(1, 2))
        edit.replace_initializer(layer.weight, fitted.astype(np.float32))
        if bias is not None and layer.bias is not None:
            more = np.concatenate([np.zeros_like(found.weight[:, units]), found.weight[:, units]], axis=1)
            edit.replace_initializer(layer.bias, (bias + more).astype(np.float32))
        return Refitted(layer.name, before, after, found.damping)
