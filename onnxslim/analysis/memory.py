"""Memory that activations need, from shapes and the order of nodes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxslim._ir import ir
from onnxslim.analysis.constants import constant_sources
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.model.edit import subgraphs
from onnxslim.model.tensors import content_bytes
from onnxslim.ops.registry import spec_of
from onnxslim.ops.spec import Facts

__all__ = ["Memory", "memory"]

_LARGEST = 1 << 62  # bytes: what is larger is no tensor


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of activations, which are the values that the model's inputs reach; weights are not among them.

    Attributes:
        peak: bytes while most is alive; None unless the size of every activation is known.
        at_least: the same of those whose size is known.
        at: the node that runs at that moment; empty when the inputs alone need most.
        largest: name of the largest single activation; empty where there is none of known size.
        largest_bytes: its size.
        unknown: activations of unknown size and calls of functions, name -> reason.
    """

    peak: int | None
    at_least: int
    at: str
    largest: str
    largest_bytes: int
    unknown: Mapping[str, str] = field(default_factory=dict)


def memory(model: ir.Model, shapes: Shapes | Facts | None = None) -> Memory:
    """How much is alive at once when the nodes run one after the other, in the order of the file.

    A value lives from its node to its last reader, readers in subgraphs included; inputs and outputs belong
    to the caller and live until the end.  A node with subgraphs needs the dearest of them on top of what is
    alive around it.  No node works in place, and the scratch space of kernels is not counted.

    Args:
        shapes: of this very model, inferred for the sizes in question; by default for a batch of one.

    Example:
        >>> import onnx.parser
        >>> text = '''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2] x) => (float[2] y) { a = Neg(x) b = Concat<axis=0>(a, a, a) y = ReduceSum(b) }'''
        >>> found = memory(ir.from_proto(onnx.parser.parse_model(text)))
        >>> found.peak, found.at, found.largest, found.largest_bytes
        (40, 'Concat', 'b', 24)
    """
    walk = _Walk(model, infer(model, batch=1) if shapes is None else shapes)
    most, at = walk.graph(model.graph)
    return Memory(
        peak=None if walk.unknown else most,
        at_least=most,
        at=at,
        largest=walk.largest,
        largest_bytes=walk.largest_bytes,
        unknown=walk.unknown,
    )


class _Walk:
    """Runs through the nodes with nothing but sizes."""

    def __init__(self, model: ir.Model, shapes: Shapes | Facts) -> None:
        self.functions = model.functions
        self.shapes = shapes
        self.constants = constant_sources(model)
        shapes_of_inputs = (shapes.shape(value) or () for value in model.graph.inputs)
        self.open = {dim for dims in shapes_of_inputs for dim in dims if isinstance(dim, str)}
        self.unknown: dict[str, str] = {}
        self.largest = ""
        self.largest_bytes = 0

    def graph(self, graph: ir.Graph) -> tuple[int, str]:
        """The most that is alive of what the graph and its subgraphs make, and the node that runs then."""
        nodes = list(graph)
        last = {value: step for step, node in enumerate(nodes) for value in _read(node)}
        last.update(dict.fromkeys((*graph.inputs, *graph.outputs), len(nodes)))
        alive = {value: self._size(value) for value in graph.inputs if value not in self.constants}
        total = sum(alive.values())
        most, at = total, ""
        for step, node in enumerate(nodes):
            for value in node.outputs:
                if value.name and value not in self.constants:
                    alive[value] = self._size(value)
                    total += alive[value]
            now = total + max((self.graph(inner)[0] for inner in subgraphs(node)), default=0)
            if now > most:
                most, at = now, node.name or node.op_type
            if spec_of(node) is None and node.op_identifier() in self.functions:
                name = node.name or node.op_type
                self.unknown[name] = f"what the function {node.op_type} needs inside is not known"
            for value in {*_read(node), *node.outputs}:
                if last.get(value, step) == step:
                    total -= alive.pop(value, 0)
        return most, at

    def _size(self, value: ir.Value) -> int:
        """Bytes; 0 where they are not known, and the reason is noted."""
        found = self._bytes(value)
        if isinstance(found, str):
            self.unknown[value.name or ""] = found
            return 0
        if found > self.largest_bytes:
            self.largest, self.largest_bytes = value.name or "", found
        return found

    def _bytes(self, value: ir.Value) -> int | str:
        dtype, dims = self.shapes.dtype(value), self.shapes.shape(value)
        if dtype is None:
            return "its type is not known, or it is no tensor"
        if dtype == ir.DataType.STRING:
            return "strings are of any length"
        if dims is None:
            return "its shape is not known"
        sizes = [dim for dim in dims if isinstance(dim, int)]
        if len(sizes) < len(dims):
            named = dict.fromkeys(dim for dim in dims if isinstance(dim, str) and dim in self.open)
            return f"open dimensions: {', '.join(named)}" if named else "its shape follows from data"
        size = content_bytes(int(dtype), sizes)
        return size if size < _LARGEST else "no memory could hold it"


def _read(node: ir.Node) -> set[ir.Value]:
    """What a node and the graphs inside it read, of their own values too."""
    found = {value for value in node.inputs if value is not None}
    for graph in subgraphs(node):
        found.update(value for value in graph.outputs if value is not None)
        for inner in graph:
            found |= _read(inner)
    return found
