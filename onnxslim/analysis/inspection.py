"""What a model is made of."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxslim._ir import ir
from onnxslim.analysis.cost import cost, stored
from onnxslim.analysis.liveness import random_outputs
from onnxslim.analysis.shapes import infer
from onnxslim.model.edit import scopes
from onnxslim.model.io import ModelLike, load
from onnxslim.ops.registry import is_dequantize, is_quantize, spec_of
from onnxslim.ops.spec import Dims

__all__ = ["Inspection", "Interface", "inspect"]

_HEAVIEST = 10


@dataclass(frozen=True, slots=True)
class Interface:
    """An input or output: dimensions are numbers, names or None, the whole is None for an unknown rank."""

    name: str
    dtype: str | None
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a model is made of.

    Attributes:
        inputs, outputs: the interface; initializers are no inputs.
        opsets: domain -> version, standard operators under the empty name.
        ops: operator -> count, Constant nodes aside.
        macs: multiply-accumulates for a batch of one, those of ``unknown_macs`` aside.
        heaviest: (node, operator, multiply-accumulates), largest first.
        quantization: ``none``, ``qdq``, ``integer`` (integer operators), ``weights`` (only weights are
            stored as integers) or several of these joined by ``+``.
        shared_weights: initializers that several nodes read, name -> readers.
        unknown_ops: operators that are neither specified nor functions of the model, with counts.
        random_outputs: outputs that differ from run to run, name -> the node that is to blame.
    """

    ir_version: int
    producer: str
    opsets: Mapping[str, int]
    inputs: tuple[Interface, ...]
    outputs: tuple[Interface, ...]
    nodes: int
    params: int
    bytes: int
    macs: int
    bytes_by_dtype: Mapping[str, int]
    ops: Mapping[str, int]
    heaviest: tuple[tuple[str, str, int], ...]
    unknown_macs: tuple[str, ...]
    quantization: str
    shared_weights: Mapping[str, int]
    unknown_ops: Mapping[str, int]
    random_outputs: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)


def inspect(model: ModelLike, *, dims: Mapping[str, int] | None = None) -> Inspection:
    """Describe a model; nothing is run and no weight is read, so its size does not matter.

    Args:
        dims: sizes for named dimensions in the count of multiply-accumulates, ``{"batch": 1}``.

    Raises:
        ModelError: for a file that is no valid model.

    Example:
        >>> import onnx.parser
        >>> text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
        >>> found = inspect(onnx.parser.parse_model(text))
        >>> found.nodes, found.inputs[0].shape, found.quantization
        (1, (2,), 'none')
    """
    loaded = load(model)
    shapes = infer(loaded)
    costs = cost(loaded, infer(loaded, dims or {}, batch=1))
    nodes = [node for scope in scopes(loaded) for node in scope]
    kinds = {node.name or node.op_type: node.op_type for node in nodes}
    heaviest = sorted(costs.macs_by_node.items(), key=lambda item: -item[1])[:_HEAVIEST]
    unknown = Counter(
        node.op_type
        for node in nodes
        if spec_of(node) is None and node.op_identifier() not in loaded.functions
    )

    def interface(value: ir.Value) -> Interface:
        dtype, shape = shapes.dtype(value), shapes.shape(value)
        return Interface(value.name or "", None if dtype is None else dtype.name.lower(), _dims(shape))

    return Inspection(
        ir_version=loaded.ir_version or 0,
        producer=" ".join(filter(None, (loaded.producer_name, loaded.producer_version))),
        opsets=dict(loaded.opset_imports),
        inputs=tuple(interface(value) for value in loaded.graph.inputs),
        outputs=tuple(interface(value) for value in loaded.graph.outputs),
        nodes=costs.nodes,
        params=costs.params,
        bytes=costs.bytes,
        macs=costs.macs,
        bytes_by_dtype=costs.bytes_by_dtype,
        ops=costs.ops,
        heaviest=tuple((name, kinds.get(name, ""), macs) for name, macs in heaviest if macs),
        unknown_macs=costs.unknown_macs,
        quantization=_quantization(loaded, nodes),
        shared_weights=_shared(loaded),
        unknown_ops=dict(unknown.most_common()),
        random_outputs=random_outputs(loaded),
    )


def _dims(shape: Dims | None) -> tuple[int | str | None, ...] | None:
    return None if shape is None else tuple(shape)


def _quantization(model: ir.Model, nodes: list[ir.Node]) -> str:
    found = []
    if any(is_quantize(node) for node in nodes):
        found.append("qdq")
    if any(
        (spec := spec_of(node)) is not None and spec.quant is not None and spec.quant.integer
        for node in nodes
    ):
        found.append("integer")
    if not found and (
        any(is_dequantize(node) for node in nodes)
        or any(tensor.dtype in _NARROW and tensor.nbytes > 1024 for tensor in stored(model))
    ):
        found.append("weights")
    return "+".join(found) or "none"


_NARROW = frozenset(
    {
        ir.DataType.INT8,
        ir.DataType.UINT8,
        ir.DataType.INT4,
        ir.DataType.UINT4,
        ir.DataType.INT16,
        ir.DataType.UINT16,
    }
)


def _shared(model: ir.Model) -> dict[str, int]:
    """Initializers of rank 2 and more that several nodes read."""
    readers: dict[str, int] = {}
    for scope in scopes(model):
        for value in scope.initializers.values() if isinstance(scope, ir.Graph) else ():
            count = len({use.node for use in value.uses()})
            if count > 1 and value.const_value is not None and len(value.const_value.shape.numpy()) > 1:
                readers[value.name or ""] = count
    return readers
