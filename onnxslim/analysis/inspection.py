"""What a model is made of."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxslim._ir import ir
from onnxslim.analysis.constants import constant_sources, tensor_of
from onnxslim.analysis.cost import cost
from onnxslim.analysis.liveness import random_outputs
from onnxslim.analysis.memory import Memory, memory
from onnxslim.analysis.quantized import Quantization, quantization
from onnxslim.analysis.shapes import infer
from onnxslim.analysis.sharing import Shared, shared_weights
from onnxslim.model.edit import scopes
from onnxslim.model.io import ModelLike, load
from onnxslim.ops.registry import spec_of

__all__ = ["Inspection", "Interface", "Shared", "Stored", "inspect"]

_HEAVIEST = 10


@dataclass(frozen=True, slots=True)
class Interface:
    """An input or output: dimensions are numbers, names or None, the whole is None for an unknown rank."""

    name: str
    dtype: str | None
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored tensor, its content aside."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a model is made of.

    Attributes:
        metadata: what the exporter noted down, key -> text.
        inputs, outputs: the interface; initializers are no inputs.
        opsets: domain -> version, standard operators under the empty name.
        ops: operator -> count, Constant nodes aside.
        macs: multiply-accumulates for a batch of one, those of ``unknown_macs`` aside.
        heaviest: (node, operator, multiply-accumulates), largest first.
        heaviest_weights: (node, operator, bytes of the stored tensors it reads), largest first; what is
            computed from stored tensors alone is looked through.
        activations: memory for a batch of one.
        quantization: ``none``, ``qdq``, ``integer`` (integer operators), ``weights`` (only weights are
            stored in few bits) or several of these joined by ``+``; ``quantized`` has the details.
        shared_weights: initializers of rank 2 and more that several nodes read, or others are views of, most
            saved first.
        unknown_ops: operators that are neither specified nor functions of the model, with counts.
        random_outputs: outputs that differ from run to run, name -> the node that is to blame.
        tensors: every named tensor that is stored, functions aside; left out of :meth:`to_dict`.
    """

    ir_version: int
    producer: str
    metadata: Mapping[str, str]
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
    heaviest_weights: tuple[tuple[str, str, int], ...]
    unknown_macs: tuple[str, ...]
    activations: Memory
    quantization: str
    quantized: Quantization
    shared_weights: tuple[Shared, ...]
    unknown_ops: Mapping[str, int]
    random_outputs: Mapping[str, str]
    tensors: Mapping[str, Stored] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found = dataclasses.asdict(dataclasses.replace(self, tensors={}))
        del found["tensors"]  # as many as there are; the heaviest are listed
        return found


def inspect(model: ModelLike, *, dims: Mapping[str, int] | None = None) -> Inspection:
    """Describe a model; nothing is run and no weight is read, so its size does not matter.

    Args:
        dims: sizes for named dimensions where work and memory are counted, ``{"batch": 1}``.

    Raises:
        ModelError: for a file that is no valid model.

    Example:
        >>> import onnx.parser
        >>> text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
        >>> found = inspect(onnx.parser.parse_model(text))
        >>> found.nodes, found.inputs[0].shape, found.quantization, found.activations.peak
        (1, (2,), 'none', 16)
    """
    loaded = load(model)
    shapes = infer(loaded)
    sized = infer(loaded, dims or {}, batch=1)
    costs = cost(loaded, sized)
    sources = constant_sources(loaded)
    nodes = [node for scope in scopes(loaded) for node in scope]
    kinds = {_label(node): node.op_type for node in nodes}
    unknown = Counter(
        node.op_type
        for node in nodes
        if spec_of(node) is None and node.op_identifier() not in loaded.functions
    )
    quantized = quantization(loaded, sources)

    def interface(value: ir.Value) -> Interface:
        dtype, shape = shapes.dtype(value), shapes.shape(value)
        dims = None if shape is None else tuple(shape)
        return Interface(value.name or "", None if dtype is None else dtype.name.lower(), dims)

    def heaviest(loads: Mapping[str, int]) -> tuple[tuple[str, str, int], ...]:
        ordered = sorted(loads.items(), key=lambda item: -item[1])[:_HEAVIEST]
        return tuple((name, kinds.get(name, ""), load) for name, load in ordered if load)

    return Inspection(
        ir_version=loaded.ir_version or 0,
        producer=" ".join(filter(None, (loaded.producer_name, loaded.producer_version))),
        metadata=dict(loaded.metadata_props),
        opsets=dict(loaded.opset_imports),
        inputs=tuple(interface(value) for value in loaded.graph.inputs),
        outputs=tuple(interface(value) for value in loaded.graph.outputs),
        nodes=costs.nodes,
        params=costs.params,
        bytes=costs.bytes,
        macs=costs.macs,
        bytes_by_dtype=costs.bytes_by_dtype,
        ops=costs.ops,
        heaviest=heaviest(costs.macs_by_node),
        heaviest_weights=heaviest(_weight_bytes(nodes, sources)),
        unknown_macs=costs.unknown_macs,
        activations=memory(loaded, sized),
        quantization=quantized.kind,
        quantized=quantized,
        shared_weights=shared_weights(loaded),
        unknown_ops=dict(unknown.most_common()),
        random_outputs=random_outputs(loaded),
        tensors=_tensors(loaded),
    )


def _label(node: ir.Node) -> str:
    return node.name or node.op_type


def _weight_bytes(nodes: list[ir.Node], sources: Mapping[ir.Value, tuple[ir.Value, ...]]) -> dict[str, int]:
    """Node -> bytes of the stored tensors that it joins with what the model's inputs reach."""
    found: Counter[str] = Counter()
    for node in nodes:
        if all(value in sources for value in node.outputs):
            continue  # computes a constant itself
        stored = {source for value in node.inputs if value is not None for source in sources.get(value, ())}
        found[_label(node)] += sum(map(_bytes, stored))
    return found


def _bytes(value: ir.Value) -> int:
    tensor = tensor_of(value)
    return 0 if tensor is None or tensor.dtype == ir.DataType.STRING else tensor.nbytes


def _tensors(model: ir.Model) -> dict[str, Stored]:
    found = {}
    for scope in scopes(model):
        if isinstance(scope, ir.Function):
            continue
        values = [*scope.initializers.values(), *(value for node in scope for value in node.outputs)]
        for value in values:
            tensor = tensor_of(value)
            if tensor is not None and value.name:
                shape = tuple(int(dim) for dim in tensor.shape.numpy())
                found[value.name] = Stored(tensor.dtype.name.lower(), shape, _bytes(value))
    return found
