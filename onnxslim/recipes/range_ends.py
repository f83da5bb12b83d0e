"""Where the range of an activation ends: chosen by the noise behind what reads it, not by that of its own.

What a Relu takes away needs no integers.  In a residual block it takes away most of what the branch adds
below zero, behind the sum with the shortcut; by their own noise those values keep a third of all levels.

Each activation is rounded alone, in a copy of what reads it up to the next value that is quantized; beside it
runs the model in floats.  So one session measures all activations at once, each at an end of its own, and
their noises do not mix.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.extract import extract
from onnxslim.analysis.shapes import infer
from onnxslim.calibration.store import Calibration
from onnxslim.model import edit
from onnxslim.model.scopes import subgraphs
from onnxslim.ops.registry import is_dequantize, is_deterministic, is_quantize, spec_of
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.recipes.engine import run_steps
from onnxslim.runtime.client import RemoteSession, Worker

__all__ = ["End", "with_ends"]

_log = logging.getLogger(__name__)

End = Literal["low", "high"]

_FRACTIONS = tuple(2 ** (-step / 4) for step in range(17))  # of the extreme that was seen
_PATIENCE = 4  # steps in which no activation gains
_FEEDS, _SECONDS = 32, 40.0  # that ends are chosen on: so many, or fewer where they take longer
_TINY = 1e-30  # signal
_FLOATS = (None, ir.DataType.FLOAT)  # or not known
_DEPTH = 16  # nodes behind an activation, where nothing is quantized

Feed = Mapping[str, Any]
Array = npt.NDArray[Any]


def with_ends(
    worker: Worker, model: ir.Model, form: QuantizeStatic, feeds: Sequence[Feed], end: End
) -> QuantizeStatic:
    """The form with ranges that end, on one side, where the least noise is left behind their readers.

    Args:
        worker: where the model runs.
        model: in float, of an operator set that has the types of the form.
        form: with a calibration, whose extremes are the furthest ends.
        feeds: to choose by.

    Raises:
        RuntimeRefused: the model does not run on the feeds.
    """
    built = run_steps(model, (form,)).model
    extremes = {probe: _extreme(form.calibration, probe.name, end) for probe in _activations(built.graph)}
    extremes = {probe: extreme for probe, extreme in extremes.items() if extreme}
    if not extremes:
        return form
    best = {probe: form.range_of(probe.name) for probe in extremes}
    with worker.load(_measuring(built, list(extremes))) as session:
        measure = _Measure(session, form, feeds)
        least, waited = measure(best), 0
        for fraction in _FRACTIONS:
            tried = {
                probe: (fraction * extreme, high) if end == "low" else (low, fraction * extreme)
                for probe, extreme in extremes.items()
                for low, high in [best[probe]]
            }
            found = measure(tried)
            better = [probe for probe in extremes if found[probe] < least[probe]]
            best |= {probe: tried[probe] for probe in better}
            least |= {probe: found[probe] for probe in better}
            waited = 0 if better else waited + 1
            if waited == _PATIENCE:
                break
    changed = {probe.name: each for probe, each in best.items() if each != form.range_of(probe.name)}
    return replace(form, ranges={**form.ranges, **changed}) if changed else form


def _extreme(calibration: Calibration | None, name: str, end: End) -> float:
    """The furthest value on a side of zero; 0 where there is none."""
    if calibration is None or name not in calibration:
        return 0.0
    low, high = calibration.range(name)
    return min(low, 0.0) if end == "low" else max(high, 0.0)


@dataclass(frozen=True, eq=False)
class _Probe:
    """An activation of a quantized model, what comes back from its integers, and what is measured of it.

    Attributes:
        name: of the activation in the float model.
        ends: the names of noise and signal of each value behind the readers.
    """

    name: str
    value: ir.Value
    restored: ir.Value
    scale: ir.Value
    zero_point: ir.Value
    ends: list[tuple[str, str]] = field(default_factory=list)

    def over(self, form: QuantizeStatic, low: float, high: float) -> dict[str, Array]:
        """Scale and zero point for a range, as inputs of the model."""
        scale, zero = form.encoding(low, high)
        return {str(self.scale.name): np.array(scale), str(self.zero_point.name): np.array(zero)}


class _Measure:
    """Noise over signal behind the readers of each activation."""

    def __init__(self, session: RemoteSession, form: QuantizeStatic, feeds: Sequence[Feed]) -> None:
        self._session, self._form = session, form
        known = {value.name for value in session.inputs}
        feeds = [{name: array for name, array in feed.items() if name in known} for feed in feeds]
        session.run(feeds[0])
        begun = time.monotonic()
        session.run(feeds[0])
        count = math.floor(_SECONDS / len(_FRACTIONS) / max(time.monotonic() - begun, 1e-6))
        self._feeds = feeds[: min(max(count, 1), _FEEDS)]
        _log.info("ends of ranges are chosen on %d feeds", len(self._feeds))

    def __call__(self, ranges: Mapping[_Probe, tuple[float, float]]) -> dict[_Probe, float]:
        inputs: dict[str, Array] = {}
        for probe, bounds in ranges.items():
            inputs |= probe.over(self._form, *bounds)
        names = list(dict.fromkeys(name for probe in ranges for pair in probe.ends for name in pair))
        rows = [self._session.run({**feed, **inputs}, names) for feed in self._feeds]
        sums = dict(zip(names, np.sum(np.array(rows, np.float64), axis=0), strict=True))
        return {
            probe: sum(float(sums[noise] / max(sums[signal], _TINY)) for noise, signal in probe.ends)
            for probe in ranges
        }


def _conversions(graph: ir.Graph) -> list[tuple[ir.Node, ir.Value]]:
    """Every quantizer of an activation, and what comes back from its integers."""
    return [
        (node, user.outputs[0])
        for node in graph
        if is_quantize(node)
        for user, index in node.outputs[0].uses()
        if is_dequantize(user) and index == 0
    ]


def _activations(graph: ir.Graph) -> list[_Probe]:
    """Those that are quantized, in the order of the graph; the first of several with one scale."""
    found: dict[ir.Value, _Probe] = {}
    for node, restored in _conversions(graph):
        if len(node.inputs) > 2:
            value, scale, zero = node.inputs[:3]
            if value is not None and scale is not None and zero is not None and scale.is_initializer():
                name = (restored if restored.is_graph_output() else value).name  # outputs keep their names
                found.setdefault(scale, _Probe(name or "", value, restored, scale, zero))
    return list(found.values())


def _measuring(model: ir.Model, probes: Sequence[_Probe]) -> ir.Model:
    """The quantized model, spent, as one that computes in floats, and beside it what reads each probe.

    Scales and zero points become inputs, with their old values as defaults.
    """
    graph = model.graph
    for probe in probes:
        _keep_biases(graph, probe.scale)
    outputs = set(graph.outputs)
    graph.outputs.clear()
    conversions = _conversions(graph)
    scales = {node.inputs[0]: node.inputs[1] for node, _ in conversions}
    for node, restored in conversions:
        assert node.inputs[0] is not None
        edit.replace_uses(restored, node.inputs[0])
    copier = _Copier(model, scales, outputs)
    for probe in probes:
        probe.ends.extend(copier.measured(*pair) for pair in copier.behind(probe))
    part = extract(model, [name for probe in probes for pair in probe.ends for name in pair])[0]
    names = [str(value.name) for probe in probes for value in (probe.scale, probe.zero_point)]
    part.graph.inputs.extend(part.graph.initializers[name] for name in dict.fromkeys(names))
    part.ir_version = max(part.ir_version, 4)  # before, every initializer was an input
    return part


def _keep_biases(graph: ir.Graph, scale: ir.Value) -> None:
    """Let the scales of biases, which are products, hold the number that the integers were rounded with."""
    number = edit.constant_value(scale)
    assert number is not None
    for node, index in list(scale.uses()):
        if not (is_quantize(node) or is_dequantize(node)):
            node.replace_input_with(index, edit.add_initializer(graph, number, f"{scale.name}_of_bias"))


class _Copier:
    """Copies what reads a value, and adds what measures the difference.

    Args:
        scales: of the values that are quantized.
        outputs: of the model.
    """

    def __init__(
        self,
        model: ir.Model,
        scales: Mapping[ir.Value | None, ir.Value | None],
        outputs: Collection[ir.Value],
    ) -> None:
        self._model, self._scales, self._outputs = model, scales, outputs
        self._order = {node: number for number, node in enumerate(model.graph)}
        self._shapes = infer(model)
        self._signals: dict[ir.Value, ir.Value] = {}

    def behind(self, probe: _Probe) -> list[tuple[ir.Value, ir.Value]]:
        """What is compared, pairs of copy and value: the nearest behind the probe that are an end."""
        copies = {probe.value: probe.restored}
        ends = dict(copies) if self._read_inside(probe.value) else {}
        waiting, copied = self._readers(probe.value), 0
        while waiting:
            node = waiting.pop(min(waiting))
            if copied == _DEPTH or any(subgraphs(node)) or not is_deterministic(node, self._model):
                ends |= {source: copies[source] for source in node.inputs if source in copies}
                continue
            copied += 1
            inputs = [source if source is None else copies.get(source, source) for source in node.inputs]
            given = list(node.attributes.values())
            copy = ir.Node(node.domain, node.op_type, inputs, given, num_outputs=len(node.outputs), name="")
            for output, other in zip(node.outputs, self._added(copy), strict=True):
                if self._shapes.dtype(output) in _FLOATS:
                    copies[output] = other
                    if self._is_end(output, probe):
                        ends[output] = other
                    else:
                        waiting |= self._readers(output)
        return [(copy, end) for end, copy in (ends or {probe.value: probe.restored}).items()]

    def measured(self, copy: ir.Value, value: ir.Value) -> tuple[str, str]:
        """The names of the noise of a copy, and of the signal."""
        [difference] = self._added(edit.new_node("Sub", [copy, value]))
        [noise] = self._added(edit.new_node("ReduceSumSquare", [difference], {"keepdims": 0}))
        if value not in self._signals:
            node = edit.new_node("ReduceSumSquare", [value], {"keepdims": 0})
            [self._signals[value]] = self._added(node)
        return str(noise.name), str(self._signals[value].name)

    def _readers(self, value: ir.Value) -> dict[int, ir.Node]:
        """By their place; what quantizes the value is left out, as is what was added here."""
        users = (user for user, _ in value.uses() if user in self._order and not is_quantize(user))
        return {self._order[user]: user for user in users}

    def _is_end(self, value: ir.Value, probe: _Probe) -> bool:
        """Whether the value is an output, read in a subgraph, quantized again, or a product in floats.

        What was only moved is not quantized again: it keeps its scale, and every number.
        """
        if value in self._outputs or self._read_inside(value):
            return True
        if value in self._scales:
            return self._scales[value] is not probe.scale
        node = value.producer()
        spec = None if node is None else spec_of(node)
        product = spec is not None and spec.quant is not None and spec.quant.weight is not None
        nexts = (output for user, _ in value.uses() for output in user.outputs)
        return product and not any(output in self._scales for output in nexts)

    def _read_inside(self, value: ir.Value) -> bool:
        return any(user.graph is not self._model.graph for user, _ in value.uses())

    def _added(self, node: ir.Node) -> Sequence[ir.Value]:
        for output in node.outputs:
            output.name = edit.unique_name(self._model, "probed")
        self._model.graph.append(node)
        return node.outputs
