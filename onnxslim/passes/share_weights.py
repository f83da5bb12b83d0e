"""Store a weight that another one holds as a view of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from onnxslim._ir import ir
from onnxslim.analysis.constants import tensor_of
from onnxslim.analysis.views import View, find_views
from onnxslim.analysis.weights import as_initializer, nearest, parents, weights
from onnxslim.model import edit
from onnxslim.passes.base import Pass

__all__ = ["ShareWeights"]

_SLICE = 10  # the operator set since which the limits of Slice are inputs
_BFLOAT16 = 13  # and that which moves bfloat16
_HALF = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_CAST = "an equal weight in half precision is this view already; shared ones are cast in each run by onnxruntime"


@dataclass(frozen=True)
class ShareWeights(Pass):
    """Replace a weight by one node that makes it of another weight, bit for bit.

    1. Reshape, Transpose and Slice (rows that follow each other) move the elements of the other weight.
    2. Neg and Mul by a power of two, for float32 and float64.
    3. Cast to a wider type that holds every number of the narrower one.

    The node reads stored tensors only, so onnxruntime computes it once, while it loads the model, at every
    level of optimization but none: what then runs is what ran before.  The node has the weight's name and
    stands in the graph that held it; it may read a weight of a graph around that one.  Weights of fewer than
    ``min_bytes`` stay, since a node costs bytes too, and so do graph inputs and outputs, and weights inside
    functions.  Equal weights are the business of ``deduplicate-initializers``, which should run first.

    Declined: models of an operator set before 10 (before 13 for bfloat16), and equal views in half precision,
    of which onnxruntime would make one that it casts in each run (see ``deduplicate-initializers``).

    Example:
        >>> import numpy as np
        >>> x = ir.Value(name="x", shape=ir.Shape([1, 32]), type=ir.TensorType(ir.DataType.FLOAT))
        >>> graph = ir.Graph([x], [], nodes=[], opset_imports={"": 17})
        >>> content = np.arange(1024, dtype=np.float32).reshape(32, 32)
        >>> w = edit.add_initializer(graph, content, "w")
        >>> v = edit.add_initializer(graph, content.T, "v")
        >>> graph.extend([ir.node("MatMul", [x, w]), ir.node("MatMul", [x, v])])
        >>> ShareWeights()(ir.Model(graph, ir_version=8)).modified
        True
        >>> [node.op_type for node in graph], list(graph.initializers)
        (['Transpose', 'MatMul', 'MatMul'], ['w'])
    """

    name: ClassVar[str] = "share-weights"

    min_bytes: int = field(default=1024, metadata={"help": "weights of fewer bytes stay as they are"})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports.get("", 0)
        if opset < _SLICE:
            self.decline(model.graph.name or "graph", f"views need operator set {_SLICE}, this is {opset}")
            return ir.passes.PassResult(model, modified=False)
        around = parents(model)
        inside = set(edit.graphs(model))
        candidates = [
            value
            for value in weights(model)
            if value.graph in inside and (opset >= _BFLOAT16 or value.dtype != ir.DataType.BFLOAT16)
        ]

        def sees(base: ir.Value, target: ir.Value) -> bool:
            return (
                isinstance(base.graph, ir.Graph)
                and isinstance(target.graph, ir.Graph)
                and nearest(target.graph, {base.graph: base}, around) is base
            )

        modified = False
        lifted: dict[ir.Value, ir.Value] = {}
        for view in list(find_views(candidates, sees, self.min_bytes)):
            base, target = (lifted.get(value, value) for value in (view.base, view.target))
            tensor, name = tensor_of(target), target.name or ""
            if tensor is None or tensor.nbytes < 8 * len(name):  # the node might cost more
                continue
            if tensor.dtype in _HALF and any(_makes(use.node, view) for use in base.uses()):
                self.decline(name, _CAST)
                continue
            base = lifted[view.base] = as_initializer(base)
            _apply(view, base, target, tensor)
            modified = True
        return ir.passes.PassResult(model, modified)


def _makes(node: ir.Node, view: View) -> bool:
    """Whether a node that reads the base of a view makes the same of it."""
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    contents = [edit.constant_value(value) for value in node.inputs[1:]]
    return (
        node.op_type == view.op_type
        and attributes == dict(view.attributes)
        and len(contents) == len(view.constants)
        and all(
            content is not None and np.array_equal(content, wanted)
            for content, (_, wanted) in zip(contents, view.constants, strict=True)
        )
    )


def _apply(view: View, base: ir.Value, target: ir.Value, tensor: ir.TensorProtocol) -> None:
    graph, name = target.graph, target.name
    assert isinstance(graph, ir.Graph) and name is not None
    constants = [
        edit.add_initializer(graph, content, f"{name}_{hint}") for hint, content in view.constants
    ]
    node = ir.node(view.op_type, [base, *constants], dict(view.attributes), name=name)
    made = node.outputs[0]
    made.shape, made.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
    made.doc_string = target.doc_string
    made.metadata_props.update(target.metadata_props)
    for user, index in tuple(target.uses()):
        user.replace_input_with(index, made)
    edit.remove_unread(target)
    made.name = name
    # in front of all others: of two views, the later one may be the base of the earlier
    if len(graph):
        graph.insert_before(graph[0], node)
    else:
        graph.append(node)
