"""How far the values of a form of a model are from the original's, on a few inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from onnxslim._ir import ir
from onnxslim.analysis.extract import extract, named_values
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.analysis.streams import find_streams
from onnxslim.measure.differences import Difference
from onnxslim.model.edit import constant_value
from onnxslim.ops.registry import is_dequantize, is_quantize, spec_of
from onnxslim.runtime.client import Optimize, Worker
from onnxslim.runtime.targets.units import elements

__all__ = ["Rows", "noise_to_signal", "observed_at", "outputs_of", "telling_values", "typical_noise"]

Rows: TypeAlias = Sequence[Sequence[Any]]  # per feed, the outputs in the model's order

_FLOATS = (None, ir.DataType.FLOAT)  # or not known
_LEAST_SIGNAL = 1e-3  # of a feed, as a share of the mean over feeds
_LEAST_NOISE = 1e-10  # over signal; rounding of floats alone leaves about as much
_MANY = 512  # elements of one feed that tell enough together


def outputs_of(
    worker: Worker, model: ir.Model, feeds: Sequence[Mapping[str, Any]], optimize: Optimize = "none"
) -> Rows:
    """Run a model on each feed."""
    with worker.load(model, optimize=optimize) as session:
        return [session.run(feed) for feed in feeds]


def noise_to_signal(reference: Rows, found: Rows) -> float:
    """``sum d^2 / sum ref^2`` of the noisiest output over all feeds; infinite where it cannot be compared.

    Example:
        >>> import numpy as np
        >>> noise_to_signal([[np.array([3.0, 4.0])]], [[np.array([3.0, 4.5])]])
        0.01
    """
    return max((_ratio(each.noise, each.signal) for each in _differences(reference, found)), default=0.0)


def typical_noise(reference: Rows, found: Rows) -> float:
    """What forms are ranked by: the geometric mean over feeds of ``sum d^2 / sum ref^2``, outputs added up.

    A sum over all feeds is decided by the few that amplify noise: of eight, one may have ten times the noise
    of the others, and a fifth of it in a form that differs by one bit of a bias.  A logarithm gives every
    feed the same weight.  What bounds the worst is :func:`noise_to_signal`.

    The signal of a feed counts as at least a thousandth of the mean over feeds, noise as at least 1e-10 (100
    dB): what is almost zero, or by chance almost equal, must not decide either.  Zero where all is equal.

    Example:
        >>> import numpy as np
        >>> reference = [[np.array([10.0])], [np.array([10.0])]]
        >>> round(typical_noise(reference, [[np.array([11.0])], [np.array([10.1])]]), 6)  # 0.01 and 0.0001
        0.001
    """
    feeds = [_differences([expected], [row]) for expected, row in zip(reference, found, strict=True)]
    if all(difference.noise == 0 for row in feeds for difference in row):
        return 0.0
    columns = list(zip(*feeds, strict=True))
    floors = [_LEAST_SIGNAL * sum(each.signal for each in column) / len(column) for column in columns]
    ratios = [
        sum(_ratio(each.noise, max(each.signal, floor)) for each, floor in zip(row, floors, strict=True))
        for row in feeds
    ]
    return math.exp(sum(math.log(max(ratio, _LEAST_NOISE)) for ratio in ratios) / len(ratios))


def _differences(reference: Rows, found: Rows) -> list[Difference]:
    """How far each output is from the original's, over all feeds."""
    differences = [Difference() for _ in reference[0]]
    for expected, row in zip(reference, found, strict=True):
        for difference, one, other in zip(differences, expected, row, strict=True):
            difference.add(one, other)
    return differences


def _ratio(noise: float, signal: float) -> float:
    if signal:
        return noise / signal
    return math.inf if noise else 0.0


def telling_values(model: ir.Model) -> tuple[str, ...]:
    """The values that tell best, on a few feeds, how noisy the outputs of a form of the model are.

    Probabilities do not: most are saturated, and the few that are not decide alone.  So for each output it is
    what the last product, normalization or meeting of two values gives in front of it.  Where that has few
    elements, the nearest values with many tell too.  Never any whose channels may be scaled.

    Example:
        >>> import onnx.parser
        >>> telling_values(ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[1,900] x, float[900,2] w) => (float[1,2] y)
        ...     { t = Tanh(x) m = MatMul(t, w) y = Softmax(m) }''')))
        ('m', 't')
    """
    shapes = infer(model)
    scaled = {value for stream in find_streams(model.graph, shapes) for value, _ in stream.values}

    def tells(value: ir.Value) -> bool:
        return value not in scaled and shapes.dtype(value) in _FLOATS

    found: dict[str, None] = {}
    for output in model.graph.outputs:
        last = next((value for value in _single_file(output, shapes) if tells(value)), output)
        found[last.name or ""] = None
        waiting, visited = [last] if elements(last, shapes) < _MANY else [], set[ir.Value]()
        while waiting:
            value = waiting.pop()
            node = value.producer()
            if value in visited or node is None:
                continue
            visited.add(value)
            if elements(value, shapes) >= _MANY and tells(value):
                found[value.name or ""] = None
            else:
                waiting += [source for source in node.inputs if source is not None]
    return tuple(found)


def _single_file(output: ir.Value, shapes: Shapes) -> list[ir.Value]:
    """The values from the last product, normalization or meeting of two values to the output, in order."""
    values = [output]
    while (node := values[-1].producer()) is not None:
        spec = spec_of(node)
        role = None if spec is None else spec.quant
        product, normal = role is not None and role.weight is not None, spec is not None and spec.affine
        given = [value for value in node.inputs if value is not None and constant_value(value) is None]
        sources = [
            value for value in given if shapes.dtype(value) in _FLOATS
        ]  # a Reshape may compute its sizes
        if product or normal or len(sources) != 1 or sources[0].producer() is None:
            break
        values.append(sources[0])
    return values[::-1]


def observed_at(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy that gives these values as they are read: where they are quantized, what comes back.

    It takes all inputs of the model, needed or not.
    """
    values = named_values(model.graph)
    part = extract(model, [_as_read(values[name]) for name in names])[0]
    known = {value.name for value in part.graph.inputs}
    idle = [value for value in model.graph.inputs if value.name not in known and not value.is_initializer()]
    part.graph.inputs.extend(ir.Value(name=v.name, shape=v.shape, type=v.type) for v in idle)
    return part


def _as_read(value: ir.Value) -> str:
    for node, index in value.uses():
        if is_quantize(node) and index == 0 and not value.is_graph_output():
            for user, place in node.outputs[0].uses():
                if is_dequantize(user) and place == 0:
                    return user.outputs[0].name or ""
    return value.name or ""
