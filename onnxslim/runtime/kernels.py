"""What onnxruntime really executes: read from the model that it dumps after its own optimizations.

Nodes are joined by the names of their outputs, since onnxruntime renames nodes when it fuses them.  Where it
changed the layout, its own transposition stands between a kernel and the name; that is looked through.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxslim._ir import ir
from onnxslim.errors import ModelError
from onnxslim.model.protos import graphs_of
from onnxslim.ops.registry import is_conversion, is_quantizing
from onnxslim.runtime.client import Optimize, open_worker
from onnxslim.runtime.sources import RunnableModel

__all__ = ["SMALL_DUMP", "Executed", "Kernel", "executed", "message_of", "read_dump"]

# weights stay out of the dump: a file of the model's size would have to be written and read
SMALL_DUMP = {
    "session.optimized_model_external_initializers_file_name": "weights.bin",
    "session.optimized_model_external_initializers_min_size_in_bytes": "256",
}
_PLANAR = "_nchwc"
_TOKEN = re.compile(r"_token_\d+$")  # appended to the name of a node that was moved to another layout


@dataclass(frozen=True, slots=True)
class Kernel:
    """A node that runs: ``domain`` is empty for ONNX's own operators, ``name`` is onnxruntime's.

    ``has_body``: it runs a branch or loop body, whose nodes are kernels too.
    """

    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str = ""
    has_body: bool = False


@dataclass(frozen=True, slots=True)
class Executed:
    """The nodes that run, those in branches and loop bodies included.

    Attributes:
        kernels: in the order of the dump.
        by_output: value name of the original model -> the kernel that computes it.
        quantized: output of a QuantizeLinear of the original model -> the value that it quantizes.
    """

    kernels: tuple[Kernel, ...]
    by_output: Mapping[str, Kernel]
    quantized: Mapping[str, str]

    @property
    def histogram(self) -> dict[str, int]:
        """How often each operator runs, the most frequent first."""
        return dict(Counter(kernel.op_type for kernel in self.kernels).most_common())

    def kernel_of(self, value_name: str) -> str | None:
        """The operator that computes a value at run time; None if it was fused into another, or folded."""
        kernel = self.by_output.get(value_name)
        return kernel.op_type if kernel else None

    def readers_of(self, value_name: str) -> tuple[Kernel, ...]:
        """The kernels that take a value."""
        return tuple(kernel for kernel in self.kernels if value_name in kernel.inputs)


def executed(
    model: RunnableModel,
    *,
    optimize: Optimize = "all",
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int = 1,
) -> Executed:
    """Let onnxruntime optimize a model, and read what is left.

    Args:
        model: a model, a message or a path.

    Raises:
        RuntimeRefused: onnxruntime does not load it, or a provider that compiles subgraphs cannot dump it.

    Example:
        >>> from onnx.parser import parse_model
        >>> text = '''<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) {
        ...     a = Identity(x) y = Neg(a) }'''
        >>> found = executed(parse_model(text))
        >>> found.histogram, found.kernel_of("y"), found.kernel_of("a")
        ({'Neg': 1}, 'Neg', None)
    """
    with tempfile.TemporaryDirectory(prefix="onnxslim-") as name, open_worker() as worker:
        dump = Path(name) / "optimized.onnx"
        session = worker.load(
            model, optimize=optimize, providers=providers, threads=threads, config=SMALL_DUMP, dump=dump
        )
        session.close()
        return read_dump(dump, model)


def read_dump(dump: Path, model: RunnableModel) -> Executed:
    """What is in the file that a session with ``dump`` and ``SMALL_DUMP`` wrote for ``model``.

    Raises:
        ModelError: it wrote none, as a provider that compiles subgraphs may.
    """
    if not dump.exists():
        raise ModelError("onnxruntime wrote no optimized model", hint="use the CPU provider")
    proto = onnx.ModelProto.FromString(dump.read_bytes())
    kernels = tuple(_kernels(proto.graph))
    produced = {output: kernel for kernel in kernels for output in kernel.outputs}
    source = message_of(model)
    original = _producers(source)
    by_output = {name: _behind(name, produced, original) for name in produced if name in original}
    for kernel in kernels:  # in its own layout, a value has another name, and the kernel that of the value
        value = kernel.name.removesuffix(_PLANAR)
        if value != kernel.name and value in original:
            by_output.setdefault(value, kernel)
    known = set(by_output.values())
    for kernel, value in _by_node_name([k for k in kernels if k not in known], kernels, source.graph):
        by_output.setdefault(value, kernel)
    return Executed(kernels, by_output, _quantized(source.graph))


def _quantized(graph: onnx.GraphProto) -> dict[str, str]:
    """Output of a QuantizeLinear -> the value that it quantizes, or that it makes an output."""
    nodes = list(_kernels(graph))
    outputs = {value.name for value in graph.output}
    outside = {
        node.inputs[0]: node.outputs[0]
        for node in nodes
        if is_conversion(node.op_type) and not is_quantizing(node.op_type) and node.outputs[0] in outputs
    }
    return {
        node.outputs[0]: outside.get(node.outputs[0], node.inputs[0])
        for node in nodes
        if is_quantizing(node.op_type)
    }


def _by_node_name(
    wanted: Iterable[Kernel], kernels: Iterable[Kernel], graph: onnx.GraphProto
) -> Iterator[tuple[Kernel, str]]:
    """Kernels that bear the name of a node, with the value at the end of what they absorbed behind it."""
    nodes = list(_kernels(graph))
    by_name = {node.name: node for node in nodes if node.name}
    surviving = {_TOKEN.sub("", kernel.name) for kernel in kernels}
    readers: dict[str, list[Kernel]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    for kernel in wanted:
        named = by_name.get(_TOKEN.sub("", kernel.name))
        if named is None or not named.outputs:
            continue
        value = named.outputs[0]
        while len(found := readers.get(value, [])) == 1 and found[0].outputs:
            if found[0].name in surviving or is_conversion(found[0].op_type):
                break
            value = found[0].outputs[0]
        yield kernel, value


def message_of(model: RunnableModel) -> onnx.ModelProto:
    """The message of a model; of a file without its external data."""
    if isinstance(model, onnx.ModelProto):
        return model
    if isinstance(model, ir.Model):
        proto: onnx.ModelProto = ir.to_proto(model)
    else:
        proto = onnx.ModelProto.FromString(model if isinstance(model, bytes) else Path(model).read_bytes())
    return proto


def _producers(proto: onnx.ModelProto) -> dict[str, str]:
    """Every value name of the model, with the operator that produces it, or an empty string."""
    names = {tensor.name: "" for graph in graphs_of(proto) for tensor in graph.initializer}
    names.update({value.name: "" for graph in graphs_of(proto) for value in graph.input})
    names.update({name: kernel.op_type for kernel in _kernels(proto.graph) for name in kernel.outputs})
    return names


def _behind(name: str, produced: Mapping[str, Kernel], original: Mapping[str, str]) -> Kernel:
    """The kernel that computes ``name``, behind what only moves a value that the original does not have."""
    kernel = produced[name]
    while kernel.op_type != original[name] and len(kernel.inputs) == 1:
        source = kernel.inputs[0]
        if source in original or source not in produced:
            break
        kernel = produced[source]
    return kernel


def _kernels(graph: onnx.GraphProto) -> Iterator[Kernel]:
    for node in graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        bodies = [
            subgraph
            for attribute in node.attribute
            for subgraph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else []))
        ]
        outputs = tuple(filter(None, node.output))
        yield Kernel(node.op_type, domain, tuple(node.input), outputs, node.name, bool(bodies))
        for body in bodies:
            yield from _kernels(body)
