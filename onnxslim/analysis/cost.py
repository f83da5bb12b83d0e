"""What a model costs: parameters, bytes and multiply-accumulates, from shapes alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxslim._ir import ir
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.analysis.skeleton import stored_tensor
from onnxslim.model.edit import scopes
from onnxslim.model.sizes import serialized_size
from onnxslim.ops.registry import is_constant, spec_of

__all__ = ["Cost", "cost", "summary"]

_WEIGHT_RANK = 1  # tensors of at least this rank count as parameters; scalars are settings


@dataclass(frozen=True)
class Cost:
    """Costs of one model.

    Attributes:
        nodes: nodes in graphs, subgraphs and functions; Constant nodes, which compute nothing, aside.
        params: elements of stored tensors of rank 1 and more.
        bytes: size of the saved file, external data included.
        bytes_by_dtype: bytes of stored tensors, dtype -> bytes.
        macs: multiply-accumulates of one run of the main graph (of conditionals the dearer branch), as far
            as shapes are known.
        macs_by_node: the same per node that has any.
        unknown_macs: names of the nodes whose multiply-accumulates depend on sizes that are not known.
        ops: operator -> count, Constant nodes aside.
    """

    nodes: int
    params: int
    bytes: int
    macs: int
    bytes_by_dtype: Mapping[str, int] = field(default_factory=dict)
    macs_by_node: Mapping[str, int] = field(default_factory=dict)
    unknown_macs: tuple[str, ...] = ()
    ops: Mapping[str, int] = field(default_factory=dict)


def cost(model: ir.Model, shapes: Shapes | None = None) -> Cost:
    """Count; nothing is run and no weight is read.

    Args:
        shapes: of this very model, inferred for the sizes in question; by default for a batch of one.

    Example:
        >>> import onnx.parser
        >>> text = '''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[n,3] x) => (y) <float[3,4] w = {0,1,2,3,4,5,6,7,8,9,10,11}> { y = MatMul(x, w) }'''
        >>> model = ir.from_proto(onnx.parser.parse_model(text))
        >>> cost(model).macs, cost(model, infer(model, {"n": 2})).macs, cost(model, infer(model)).unknown_macs
        (12, 24, ('MatMul',))
    """
    known = infer(model, batch=1) if shapes is None else shapes
    counter = _Counter(known)
    macs = counter.graph(model.graph)
    by_dtype = Counter[str]()
    for tensor in stored(model):
        by_dtype[tensor.dtype.name.lower()] += tensor.nbytes if tensor.dtype != ir.DataType.STRING else 0
    ops = _operators(model)
    return Cost(
        nodes=sum(ops.values()),
        params=_parameters(model),
        bytes=serialized_size(model),
        macs=macs,
        bytes_by_dtype=dict(by_dtype.most_common()),
        macs_by_node=counter.by_node,
        unknown_macs=tuple(counter.unknown),
        ops=ops,
    )


def summary(model: ir.Model, *, macs: bool = True) -> dict[str, Any]:
    """What a report compares: ``nodes``, ``params``, ``bytes``, ``macs`` (for a batch of one) and ``ops``.

    Args:
        macs: count them, which takes most of the time; else they are None, as where they are not known.
    """
    ops = _operators(model)
    counter = _Counter(infer(model, batch=1)) if macs else None
    total = None if counter is None else counter.graph(model.graph)
    return {
        "nodes": sum(ops.values()),
        "params": _parameters(model),
        "bytes": serialized_size(model),
        "macs": None if counter is None or counter.unknown else total,
        "ops": ops,
    }


def _operators(model: ir.Model) -> dict[str, int]:
    nodes = (node for scope in scopes(model) for node in scope)
    return dict(Counter(node.op_type for node in nodes if not is_constant(node)).most_common())


def _parameters(model: ir.Model) -> int:
    shapes = (tensor.shape.numpy() for tensor in stored(model))
    return sum(math.prod(shape) for shape in shapes if len(shape) >= _WEIGHT_RANK)


def stored(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every stored tensor: initializers and Constant nodes, in all scopes."""
    for scope in scopes(model):
        if isinstance(scope, ir.Graph):
            for value in scope.initializers.values():
                if value.const_value is not None:
                    yield value.const_value
        for node in scope:
            tensor = stored_tensor(node)
            if tensor is not None:
                yield tensor


class _Counter:
    """Walks through what one run executes."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.by_node: dict[str, int] = {}
        self.unknown: list[str] = []

    def graph(self, graph: ir.Graph) -> int:
        """Loops and scans count one round of their body."""
        return sum(self._node(node) for node in graph)

    def _node(self, node: ir.Node) -> int:
        below = [
            self.graph(attribute.as_graph()) for attribute in node.attributes.values() if _holds(attribute)
        ]
        spec = spec_of(node)
        own: int | None = 0
        if spec is not None and spec.macs is not None:
            try:
                own = spec.macs(node, self.shapes.shape)
            except (ArithmeticError, IndexError, TypeError, ValueError):
                own = None  # an invalid node
            name = node.name or node.op_type
            if own is None:
                self.unknown.append(name)
            else:
                self.by_node[name] = self.by_node.get(name, 0) + own
        return (own or 0) + max(below, default=0)


def _holds(attribute: ir.Attr) -> bool:
    return not attribute.is_ref() and attribute.type == ir.AttributeType.GRAPH
