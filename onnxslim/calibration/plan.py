"""Which tensors of a model are observed, and along which axis their channels lie."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from onnxslim._ir import ir
from onnxslim.calibration.sources.base import suggest
from onnxslim.errors import CalibrationError
from onnxslim.model.edit import subgraphs
from onnxslim.ops.registry import spec_of

__all__ = ["FLOAT_TYPES", "Plan", "make_plan"]

FLOAT_TYPES = frozenset({"float16", "float32", "float64"})


@dataclass(frozen=True)
class Plan:
    """What to observe.

    Args:
        inputs: graph inputs, read from the feeds.
        fetches: values of the main graph in topological order; those that are no float tensors are only
            known once the model is loaded.
        required: the model's own outputs among them.
        axes: channel axis, where the weights that a tensor meets tell it.
        skipped: tensors that cannot be observed, with the reason.
    """

    inputs: tuple[str, ...]
    fetches: tuple[str, ...]
    required: tuple[str, ...]
    axes: dict[str, int]
    skipped: dict[str, str]


def make_plan(model: ir.Model, tensors: Collection[str] | None = None) -> Plan:
    """Plan to observe ``tensors``, by default every float tensor that depends on the inputs.

    Raises:
        CalibrationError: one of ``tensors`` does not exist or cannot be observed.
    """
    graph = model.graph
    fed = [value for value in graph.inputs if value.name and value.name not in graph.initializers]
    skipped: dict[str, str] = {}
    depends: set[ir.Value] = set(graph.inputs)
    produced: list[ir.Value] = []
    for node in graph:
        bodies = list(subgraphs(node))
        for body in bodies:
            for value in _values_inside(body):
                if value.name:
                    skipped[value.name] = f"it is inside the body of '{node.name or node.op_type}'"
        if bodies or any(value in depends for value in node.inputs):
            depends.update(node.outputs)
            produced.extend(value for value in node.outputs if value.name)
    observed = [value for value in produced if _may_be_float(value)]
    inputs = [value for value in fed if _may_be_float(value)]
    names = {value.name for value in [*observed, *inputs]}
    for name in skipped.keys() & names:  # a body may reuse a name only where the outer one is not visible
        del skipped[name]
    if tensors is not None:
        for name in tensors:
            if name not in names:
                _refuse(name, skipped, names, graph)
        observed = [value for value in observed if value.name in tensors]
        inputs = [value for value in inputs if value.name in tensors]
        skipped = {}
    return Plan(
        tuple(str(value.name) for value in inputs),
        tuple(str(value.name) for value in observed),
        tuple(str(value.name) for value in graph.outputs if value in set(observed)),
        _axes([*inputs, *observed]),
        skipped,
    )


def _refuse(name: str, skipped: dict[str, str], names: Collection[str | None], graph: ir.Graph) -> None:
    if name in skipped:
        why, hint = skipped[name], None
    elif name in graph.initializers or any(name == v.name for node in graph for v in node.outputs):
        why, hint = "it is constant or holds no floats", None
    else:
        why, hint = "the model has no such tensor", suggest(name, filter(None, names))
    raise CalibrationError(f"the tensor '{name}' cannot be observed: {why}", hint=hint)


def _values_inside(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph:
        if node.inputs:  # else it is a constant
            yield from (value for value in node.outputs if _may_be_float(value))
        for body in subgraphs(node):
            yield from _values_inside(body)


def _may_be_float(value: ir.Value) -> bool:
    if value.type is None:
        return True
    if not isinstance(value.type, ir.TensorType):
        return False
    return value.type.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


def _axes(values: Sequence[ir.Value]) -> dict[str, int]:
    """Of values in topological order; an elementwise operator hands the axis of its inputs on."""
    axes: dict[str, int] = {}
    for value in values:
        axis, producer = _axis(value), value.producer()
        if axis is None and producer is not None and (spec := spec_of(producer)) and spec.elementwise:
            known = [axes[v.name] for v in producer.inputs if v is not None and v.name in axes]
            axis = known[0] if known else None
        if axis is not None:
            axes[str(value.name)] = axis
    return axes


def _axis(value: ir.Value) -> int | None:
    """By the weight that the value meets: beside kernels of three axes or more it is 1, else the last."""
    nodes = [use.node for use in value.uses()]
    producer = value.producer()
    if producer is not None:
        nodes.insert(0, producer)
    for node in nodes:
        if len(node.inputs) > 1 and (weight := node.inputs[1]) is not None and weight is not value:
            content = weight.const_value
            if content is not None and len(content.shape) >= 2:
                return 1 if len(content.shape) >= 3 else -1
    return None
