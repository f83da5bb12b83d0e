"""What a model costs: nodes, parameters, bytes, multiply-accumulates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxslim._ir import ir
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.model import edit
from onnxslim.model.sizes import serialized_size
from onnxslim.ops.registry import spec_of

__all__ = ["Cost", "cost", "summary"]


@dataclass(frozen=True)
class Cost:
    """Sizes of a model.

    Attributes:
        nodes: in all graphs, subgraphs and functions.
        params: elements of all initializers; tied weights count once.
        bytes: of the model as one file, external data included.
        bytes_by_dtype: of the initializers.
        macs: multiply-accumulates of one run; None when the shape of no such operator is known.
        macs_by_node: node name -> multiply-accumulates, where known.
        unknown_macs: nodes whose multiply-accumulates depend on dimensions that are not known.
        ops: operator -> count, most frequent first.
    """

    nodes: int
    params: int
    bytes: int
    bytes_by_dtype: Mapping[str, int]
    macs: int | None
    macs_by_node: Mapping[str, int]
    unknown_macs: tuple[str, ...]
    ops: Mapping[str, int]


def cost(model: ir.Model, shapes: Shapes | None = None) -> Cost:
    """Add up what a model costs; ``shapes`` are inferred where not given.

    Example:
        >>> graph = ir.Graph([], [], nodes=[], opset_imports={"": 17}, name="g")
        >>> cost(ir.Model(graph, ir_version=8)).nodes
        0
    """
    shapes = shapes or infer(model)
    ops: Counter[str] = Counter()
    by_dtype: Counter[str] = Counter()
    macs: dict[str, int] = {}
    unknown: list[str] = []
    params = 0
    for scope in edit.scopes(model):
        for node in scope:
            ops[f"{node.domain}::{node.op_type}" if node.domain else node.op_type] += 1
            spec = spec_of(node)
            if spec is None or spec.macs is None:
                continue
            name = node.name or (node.outputs[0].name if node.outputs else "") or node.op_type
            count = spec.macs(node, shapes.shape)
            if count is None:
                unknown.append(name)
            else:
                macs[name] = macs.get(name, 0) + count
        if isinstance(scope, ir.Graph):
            for value in scope.initializers.values():
                if value.const_value is not None:
                    params += value.const_value.size
                    by_dtype[value.const_value.dtype.name] += value.const_value.nbytes
    return Cost(
        nodes=ops.total(),
        params=params,
        bytes=serialized_size(model),
        bytes_by_dtype=dict(by_dtype.most_common()),
        macs=sum(macs.values()) if macs or not unknown else None,
        macs_by_node=macs,
        unknown_macs=tuple(unknown),
        ops=dict(ops.most_common()),
    )


def summary(model: ir.Model, shapes: Shapes | None = None) -> dict[str, Any]:
    """The figures that a report compares before and after."""
    found = cost(model, shapes)
    return {
        "nodes": found.nodes,
        "params": found.params,
        "bytes": found.bytes,
        "macs": found.macs,
        "ops": dict(found.ops),
    }
