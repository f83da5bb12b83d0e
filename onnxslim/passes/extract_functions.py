"""Write what is repeated over the same weights once, as a function of the model."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import ClassVar

from onnxslim._ir import ir
from onnxslim.analysis.repeats import LEAST_NODES, Repeat, find_repeats
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.model.hashing import attribute_key
from onnxslim.ops.registry import is_constant, is_deterministic
from onnxslim.passes.base import Pass

__all__ = ["ExtractFunctions"]

_DOMAIN = "local"
_IR_VERSION = 8  # models have functions since then


@dataclass(frozen=True)
class ExtractFunctions(Pass):
    """Let parts that compute the same over the same weights, from different inputs, be calls of one function.

    Twin towers, and layers that share their weights.  The text of the graph is in the file once; runtimes put
    the function in place of each call while they load the model, so nothing is computed otherwise, or faster.

    1. Two or more parts of at least ``least`` nodes, over the same stored tensors (equal ones are one after
       ``deduplicate-initializers``), become one function and a call for each; what they read from outside
       are its inputs, weights too, and what is read outside are its outputs.

    Left alone: random and unknown operators, nodes with subgraphs, and parts that are left and entered again.
    What computes the same from the same inputs is the business of ``merge-common-subexpressions``.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]> g (float[2] a, float[2] b) => (float[2] y, float[2] z)
        ...     <float[2] w = {1, 2}> {
        ...     c = Mul(a, w)  d = Exp(c)  e = Neg(d)  y = Add(e, d)
        ...     f = Mul(b, w)  g = Exp(f)  h = Neg(g)  z = Add(h, g) }'''))
        >>> ExtractFunctions()(model).modified, [node.op_type for node in model.graph]
        (True, ['part', 'part'])
    """

    name: ClassVar[str] = "extract-functions"

    least: int = field(default=LEAST_NODES, metadata={"help": "nodes of a part, at least"})

    def __post_init__(self) -> None:
        if self.least < 2:
            raise OptionError(f"least must be 2 or more, is {self.least}", hint="a call is a node as well")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False

        def key(node: ir.Node) -> Hashable:
            if is_constant(node) or next(iter(edit.subgraphs(node)), None) or not is_deterministic(node, model):
                return None
            return (
                node.op_identifier(),
                tuple(_input_key(value) for value in node.inputs),
                tuple(bool(value.name) for value in node.outputs),
                tuple(sorted((name, attribute_key(each)) for name, each in node.attributes.items())),
            )

        for graph in edit.graphs(model):
            failed: set[ir.Node] = set()
            while found := find_repeats(graph, key, _is_stored, failed, self.least):
                for repeat in found:
                    _extract(model, graph, repeat)
                graph.sort()
                modified = True
        return ir.passes.PassResult(model, modified)


def _is_stored(value: ir.Value) -> bool:
    """Whether a value is the same in every run: an initializer that no caller overrides, or a Constant."""
    node = value.producer()
    if node is not None:
        return is_constant(node)
    return value.is_initializer() and not value.is_graph_input()


def _input_key(value: ir.Value | None) -> Hashable:
    if value is None:
        return "absent"
    return id(value) if _is_stored(value) else "computed"


def _extract(model: ir.Model, graph: ir.Graph, repeat: Repeat) -> None:
    """One function, and a call in place of each part."""
    at = {node: (part, number) for number, place in enumerate(repeat.places) for part, node in enumerate(place)}
    inside: dict[tuple[int, int], ir.Value] = {}  # of the function, by place and output
    inputs: dict[tuple[ir.Value, ...], ir.Value] = {}  # of each part -> of the function
    nodes = []
    for number, place in enumerate(repeat.places):
        read: list[ir.Value | None] = []
        for values in zip(*(node.inputs for node in place), strict=True):
            given = tuple(value for value in values if value is not None)
            if not given:
                read.append(None)
                continue
            maker = given[0].producer()
            origin = None if maker is None or _is_stored(given[0]) else at.get(maker)
            if origin is not None and origin[0] == 0:
                read.append(inside[origin[1], given[0].index() or 0])
            else:
                read.append(inputs.setdefault(given, ir.Value(name=f"i{len(inputs)}")))
        first = place[0]
        node = ir.Node(
            first.domain,
            first.op_type,
            read,
            list(first.attributes.values()),
            overload=first.overload,
            num_outputs=len(first.outputs),
            name="",
        )
        for slot, (new, old) in enumerate(zip(node.outputs, first.outputs, strict=True)):
            new.name = f"v{len(inside)}" if old.name else ""  # short: the parts have other names anyway
            inside[number, slot] = new
        nodes.append(node)
    outputs = {
        (number, slot): [node.outputs[slot] for node in place]
        for number, place in enumerate(repeat.places)
        for slot in range(len(place[0].outputs))
        if any(_is_read_outside(node.outputs[slot], node, at) for node in place)
    }
    function = _function(model, list(inputs.values()), [inside[each] for each in outputs], nodes)
    calls = [
        ir.node(
            function.name,
            [values[part] for values in inputs],
            domain=function.domain,
            num_outputs=len(outputs),
            name="",
        )
        for part in range(repeat.parts)
    ]
    graph.extend(calls)
    for part, call in enumerate(calls):  # a part may read another, so all of them are there first
        for new, olds in zip(call.outputs, outputs.values(), strict=True):
            old = olds[part]
            new.shape, new.type = old.shape, old.type
            new.name = edit.unique_name(graph, f"{old.name}_called")
            new.metadata_props.update(old.metadata_props)
            is_output = old.is_graph_output()
            edit.replace_uses(old, new)
            if not is_output:  # names stay in the graph; those of its outputs have moved already
                old.name, new.name = new.name, old.name
    for node in repeat.nodes:
        node.resize_inputs(0)
    for node in repeat.nodes:
        edit.remove_node(node)


def _is_read_outside(value: ir.Value, node: ir.Node, at: dict[ir.Node, tuple[int, int]]) -> bool:
    part = at[node][0]
    return value.is_graph_output() or any(
        at.get(user, (None, None))[0] != part for user, _ in value.uses()
    )


def _function(
    model: ir.Model, inputs: list[ir.Value], outputs: list[ir.Value], nodes: list[ir.Node]
) -> ir.Function:
    taken = {(domain, name) for domain, name, _ in model.functions}
    names = (f"part_{number}" if number else "part" for number in range(len(taken) + 1))
    name = next(each for each in names if (_DOMAIN, each) not in taken)
    domains = {node.domain for node in nodes}
    imports = {domain: model.opset_imports[domain] for domain in domains if domain in model.opset_imports}
    body = ir.Graph(inputs, outputs, nodes=nodes, opset_imports=imports)
    function = ir.Function(_DOMAIN, name, graph=body, attributes=[])
    model.functions[function.identifier()] = function
    model.opset_imports.setdefault(_DOMAIN, 1)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    edit.know_names(function)
    return function
