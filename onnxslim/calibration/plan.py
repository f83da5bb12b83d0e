"""Which tensors of a model are observed, and along which axis their channels lie."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnxslim._ir import ir
from onnxslim.calibration.nested import FLOATS, Promoted, promote
from onnxslim.calibration.sources.base import suggest
from onnxslim.errors import CalibrationError
from onnxslim.model.edit import subgraphs
from onnxslim.ops.registry import spec_of

__all__ = ["FLOAT_TYPES", "Plan", "Tap", "make_plan"]

FLOAT_TYPES = frozenset({"float16", "float32", "float64"})


@dataclass(frozen=True)
class Tap:
    """Where one tensor is read.

    Attributes:
        name: of the tensor.
        source: the graph input or output that carries it.
        axis: of its channels, where the weights that it meets tell it.
        leading: axes of the source in front of the tensor's own.
        optional: an empty source means that the tensor was not computed.
        moments: whether the moments of its channels are kept.
        products: whether the products of all pairs of channels are kept.
    """

    name: str
    source: str
    axis: int | None = None
    leading: int = 0
    optional: bool = False
    moments: bool = True
    products: bool = False


@dataclass(frozen=True)
class Plan:
    """What to observe.

    Attributes:
        inputs: graph inputs, read from the feeds.
        fetches: values of the main graph in topological order; those that are no float tensors are only
            known once the model is loaded.
        required: the model's own outputs among them.
        skipped: tensors that cannot be observed, with the reason.
    """

    inputs: tuple[Tap, ...]
    fetches: tuple[Tap, ...]
    required: tuple[str, ...]
    skipped: dict[str, str]


def make_plan(
    model: ir.Model, tensors: Collection[str] | None = None, products: Collection[str] = ()
) -> Plan:
    """Plan to observe ``tensors``, by default every float tensor that depends on the inputs.

    Moments are for what constant weights are multiplied with: they are kept of such tensors, of the inputs,
    and of what is named.

    Args:
        model: tensors inside bodies become outputs of the nodes that hold them.
        products: tensors of which the products of all pairs of channels are kept.

    Raises:
        CalibrationError: one of ``tensors`` or ``products`` does not exist or cannot be observed.
    """
    graph = model.graph
    fed = [value for value in graph.inputs if value.name and value.name not in graph.initializers]
    promoted, skipped = promote(model, tensors)
    depends: set[ir.Value] = set(graph.inputs)
    produced: list[ir.Value] = []
    for node in graph:
        if any(True for _ in subgraphs(node)) or any(value in depends for value in node.inputs):
            depends.update(node.outputs)
            produced.extend(value for value in node.outputs if value.name)
    observed = [value for value in produced if _may_be_float(value)]
    inputs = [value for value in fed if _may_be_float(value)]
    names = {value: str((promoted[value].inner if value in promoted else value).name) for value in observed}
    names |= {value: str(value.name) for value in inputs}
    known = set(names.values())
    for name in skipped.keys() & known:  # a body may reuse a name only where the outer one is not visible
        del skipped[name]
    for name in [*(tensors or ()), *products]:
        if name not in known:
            _refuse(name, skipped, known, graph)
    for name in products:
        if tensors is not None and name not in tensors:
            raise CalibrationError(
                f"the second moments of '{name}' are wanted, but not the tensor", hint="name it in both"
            )
    multiplied = _multiplied(graph, depends) if tensors is None else set()
    if tensors is not None:
        observed = [value for value in observed if names[value] in tensors]
        inputs = [value for value in inputs if names[value] in tensors]
        skipped = {}
    axes = _axes(_inner([*inputs, *observed], promoted))

    def tap(value: ir.Value) -> Tap:
        name = names[value]
        inside = promoted.get(value)
        named = tensors is not None or name in products or value in fed
        return Tap(
            name,
            str(value.name),
            axes.get(name),
            inside.leading if inside else 0,
            inside.optional if inside else False,
            named or (inside.inner if inside else value) in multiplied,
            name in products,
        )

    return Plan(
        tuple(map(tap, inputs)),
        tuple(map(tap, observed)),
        tuple(str(value.name) for value in graph.outputs if value in set(observed)),
        skipped,
    )


def _multiplied(graph: ir.Graph, depends: Collection[ir.Value]) -> set[ir.Value]:
    """What operators multiply with constant weights, also where others move it first: those may go later."""
    found: set[ir.Value] = set()
    for node in reversed(tuple(graph.all_nodes())):
        spec = spec_of(node)
        if spec is None:
            continue
        taken = list(spec.moved_inputs(node)) if not found.isdisjoint(node.outputs) else []
        role = spec.quant
        if role is not None and role.weight is not None and role.weight < len(node.inputs):
            weight = node.inputs[role.weight]
            if weight is not None and weight not in depends:
                taken += [index for index in role.indices(node) if index != role.weight]
        found.update(value for index in taken if (value := node.inputs[index]) is not None)
    return found


def _inner(values: Iterable[ir.Value], promoted: Mapping[ir.Value, Promoted]) -> list[ir.Value]:
    return [promoted[value].inner if value in promoted else value for value in values]


def _refuse(name: str, skipped: dict[str, str], names: Collection[str | None], graph: ir.Graph) -> None:
    if name in skipped:
        why, hint = skipped[name], None
    elif name in graph.initializers or any(name == v.name for node in graph for v in node.outputs):
        why, hint = "it is constant or holds no floats", None
    else:
        why, hint = "the model has no such tensor", suggest(name, filter(None, names))
    raise CalibrationError(f"the tensor '{name}' cannot be observed: {why}", hint=hint)


def _may_be_float(value: ir.Value) -> bool:
    if value.type is None:
        return True
    if not isinstance(value.type, ir.TensorType):
        return False
    return value.type.dtype in FLOATS


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
