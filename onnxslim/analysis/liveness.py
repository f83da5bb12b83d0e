"""What depends on what: outputs that differ from run to run, and why."""

from __future__ import annotations

from onnxslim._ir import ir
from onnxslim.model.edit import subgraphs
from onnxslim.ops.registry import culprit

__all__ = ["random_outputs"]


def random_outputs(model: ir.Model) -> dict[str, str]:
    """Outputs that a random or stateful operator reaches, name -> the operator's node name (or type).

    Such outputs cannot be verified by running two models.  Unknown operators count as deterministic here,
    since most are.

    Example:
        >>> import onnx.parser
        >>> text = '''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2] x) => (float[2] y, float[2] z)
        ...     { r = RandomNormalLike(x)  y = Add(x, r)  z = Neg(x) }'''
        >>> random_outputs(ir.from_proto(onnx.parser.parse_model(text)))
        {'y': 'RandomNormalLike'}
    """
    tainted: dict[ir.Value, str] = {}
    _spread(model.graph, model, tainted)
    return {value.name or "": tainted[value] for value in model.graph.outputs if value in tainted}


def _spread(graph: ir.Graph, model: ir.Model, tainted: dict[ir.Value, str]) -> None:
    """Mark the outputs of random nodes and of those that read what is marked, in subgraphs too."""
    for node in graph:
        reason = next((tainted[value] for value in node.inputs if value in tainted), None)
        for inner in subgraphs(node):
            _spread(inner, model, tainted)
            reason = reason or next((tainted[value] for value in inner.outputs if value in tainted), None)
        if reason is None and (source := culprit(node, model, unknown=False)) is not None:
            reason = source.name or source.op_type
        if reason is not None:
            tainted.update(dict.fromkeys(node.outputs, reason))
