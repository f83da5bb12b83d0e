"""Which values no input of the model reaches: stored tensors, and what is computed from them alone."""

from __future__ import annotations

from collections.abc import Mapping

from onnxslim._ir import ir
from onnxslim.analysis.skeleton import stored_tensor
from onnxslim.model.edit import scopes, subgraphs
from onnxslim.ops.registry import is_constant, spec_of

__all__ = ["constant_sources", "tensor_of"]

_MOST = 64  # sources kept of one value: joining ever more of them must not take quadratic time


def tensor_of(value: ir.Value) -> ir.TensorProtocol | None:
    """The stored tensor that a value is, unread: an initializer (also one that a caller may override), or the
    output of a Constant node that holds a tensor."""
    if value.const_value is not None and value.is_initializer():
        return value.const_value
    producer = value.producer()
    return None if producer is None else stored_tensor(producer)


def constant_sources(model: ir.Model) -> Mapping[ir.Value, tuple[ir.Value, ...]]:
    """Constant value -> the stored ones that it is computed from (itself, if it is stored), at most 64.

    Example:
        >>> import onnx.parser
        >>> text = '''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[1] x) => (y) <float[1] w = {1}> { a = Neg(w) b = Exp(a) y = Add(x, b) }'''
        >>> found = constant_sources(ir.from_proto(onnx.parser.parse_model(text)))
        >>> {value.name: [source.name for source in sources] for value, sources in found.items()}
        {'w': ['w'], 'a': ['w'], 'b': ['w']}
    """
    found: dict[ir.Value, tuple[ir.Value, ...]] = {}
    for scope in scopes(model):
        graph = scope.graph if isinstance(scope, ir.Function) else scope
        for value in graph.initializers.values():
            if value.const_value is not None:
                found[value] = (value,)
        for node in graph:
            if is_constant(node):
                found.update((value, (value,)) for value in node.outputs)
            elif _computes(node) and all(value is None or value in found for value in node.inputs):
                reached = dict.fromkeys(
                    source for value in node.inputs if value is not None for source in found[value]
                )
                found.update(dict.fromkeys(node.outputs, tuple(reached)[:_MOST]))
    return found


def _computes(node: ir.Node) -> bool:
    """Whether the outputs follow from the inputs alone."""
    spec = spec_of(node)
    deterministic = spec is not None and spec.deterministic and spec.pure
    return deterministic and bool(node.inputs) and next(iter(subgraphs(node)), None) is None
