"""Every operator by name: ours and those that other packages register.

A third party adds specs through the entry point group ``onnxslim.ops``; the entry point's value is an
``OpSpec`` or an iterable of them.  Two specs of one operator are an error.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import types
from collections.abc import Iterable, Iterator, Mapping

import onnx.defs

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.model.edit import constant_value, subgraphs
from onnxslim.ops.spec import Array, OpSpec

__all__ = [
    "UNSPECIFIED",
    "all_specs",
    "culprit",
    "is_cast",
    "is_constant",
    "is_conversion",
    "is_dequantize",
    "is_deterministic",
    "is_integer_kernel",
    "is_quantize",
    "is_quantizing",
    "is_random",
    "spec_of",
    "takes",
]

_GROUP = "onnxslim.ops"
_FAMILIES = (
    "activation",
    "arithmetic",
    "attention",
    "classic",
    "comparison",
    "contrib",
    "control",
    "conv",
    "conversion",
    "generation",
    "image",
    "indexing",
    "matmul",
    "movement",
    "normalization",
    "pooling",
    "quantization",
    "randomness",
    "recurrent",
    "reduction",
    "sequence",
    "shape",
    "spectral",
    "text",
    "training",
)
_Key = tuple[str, str]

# Known by name and left unspecified on purpose; treated like any unknown operator.
UNSPECIFIED: Mapping[_Key, str] = types.MappingProxyType(
    {
        ("ai.onnx.preview.training", "Gradient"): "it differentiates the graph around it, not its inputs",
    }
)


@functools.cache
def all_specs() -> Mapping[_Key, OpSpec]:
    """Every registered spec, (domain, operator) -> spec; the domain of standard operators is empty.

    Raises:
        OptionError: two specs of one operator, or an entry point that names something else.

    Example:
        >>> all_specs()["", "Relu"].elementwise
        True
    """
    found: dict[_Key, OpSpec] = {}
    for spec, where in [*_own(), *_third_party()]:
        if found.setdefault((spec.domain, spec.op_type), spec) is not spec:
            name = f"{spec.domain}.{spec.op_type}".lstrip(".")
            raise OptionError(f"the operator {name} is specified twice", where=where)
    return types.MappingProxyType(found)


def spec_of(node: ir.Node) -> OpSpec | None:
    """What is known about the operator of ``node``; None for an unknown one, and for a model's own function.

    Example:
        >>> spec_of(ir.node("Relu", [])).elementwise, spec_of(ir.node("Nonsense", []))
        (True, None)
    """
    if node.overload:
        return None
    domain = node.domain
    return all_specs().get(("" if domain == "ai.onnx" else domain, node.op_type))


def is_deterministic(node: ir.Node, model: ir.Model | None = None) -> bool:
    """Whether equal inputs give equal outputs, subgraphs and the functions of ``model`` looked into.

    Unknown operators are not.
    """
    return culprit(node, model) is None


def is_random(node: ir.Node, model: ir.Model | None = None) -> bool:
    """Whether the outputs are known to differ from run to run; unknown operators are not random."""
    return culprit(node, model, unknown=False) is not None


def is_quantize(node: ir.Node) -> bool:
    """Whether the node turns floats into integers by a scale: QuantizeLinear, of whichever domain."""
    return spec_of(node) is not None and node.op_type == "QuantizeLinear"


def is_dequantize(node: ir.Node) -> bool:
    """Whether the node turns integers into floats by a scale: DequantizeLinear, of whichever domain."""
    return spec_of(node) is not None and node.op_type == "DequantizeLinear"


def is_cast(node: ir.Node) -> bool:
    """Whether the node gives its input another element type, which an attribute names: Cast."""
    return spec_of(node) is not None and node.op_type == "Cast"


def is_integer_kernel(op_type: str, domain: str = "") -> bool:
    """Whether what onnxruntime made of a model computes with integers: one of its own kernels, by name.

    Example:
        >>> is_integer_kernel("QLinearConv", "com.ms.internal.nhwc"), is_integer_kernel("Conv")
        (True, False)
    """
    specs = all_specs()
    found = (specs.get((each, op_type)) for each in (domain, "", "com.microsoft"))
    return any(spec is not None and spec.quant is not None and spec.quant.integer for spec in found)


def is_quantizing(op_type: str) -> bool:
    """Whether a kernel turns floats into integers by a scale, given or found, and does nothing else."""
    return op_type in ("QuantizeLinear", "DynamicQuantizeLinear")


def is_conversion(op_type: str) -> bool:
    """Whether a kernel only goes between floats and integers."""
    return is_quantizing(op_type) or op_type == "DequantizeLinear"


def takes(node: ir.Node, index: int, dtype: ir.DataType, opset: int) -> bool:
    """Whether the standard lets input ``index`` be a tensor of a type, in a version of the operator set.

    Example:
        >>> pool = ir.node("MaxPool", [ir.Value(name="x")])
        >>> takes(pool, 0, ir.DataType.UINT8, 11), takes(pool, 0, ir.DataType.UINT8, 12)
        (False, True)
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, domain)
    except onnx.defs.SchemaError:
        return False
    formal = schema.inputs[min(index, len(schema.inputs) - 1)]
    return f"tensor({dtype.name.lower()})" in formal.types


def is_constant(node: ir.Node) -> bool:
    """Whether the node is a stored tensor: Constant, in any of its forms."""
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def culprit(node: ir.Node, model: ir.Model | None = None, *, unknown: bool = True) -> ir.Node | None:
    """The node, here or nested or in a function, because of which equal inputs may give different outputs.

    Args:
        unknown: whether unknown operators are suspected.
    """
    work, entered = [node], set[ir.OperatorIdentifier]()
    while work:
        current = work.pop()
        spec = spec_of(current)
        if spec is None:
            name = current.op_identifier()
            function = None if model is None else model.functions.get(name)
            if function is None and unknown:
                return current
            if function is not None and name not in entered:
                entered.add(name)
                work += function
        elif not spec.pure or (not spec.deterministic and not _at_inference(current, spec)):
            return current
        for graph in subgraphs(current):
            work += graph
    return None


def _at_inference(node: ir.Node, spec: OpSpec) -> bool:
    """Whether a layer that is random in training hands its input on."""
    return spec.identity_input is not None and spec.identity_input(node, _Constants()) is not None


class _Constants:
    """Nothing but constants is known about the values around a node."""

    def shape(self, value: ir.Value) -> None:
        return None

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        return value.dtype

    def constant(self, value: ir.Value) -> Array | None:
        return constant_value(value)


def _own() -> Iterator[tuple[OpSpec, str]]:
    for family in _FAMILIES:
        module = importlib.import_module(f"onnxslim.ops.{family}")
        for spec in module.SPECS:
            yield spec, module.__name__


def _third_party() -> Iterator[tuple[OpSpec, str]]:
    for entry in importlib.metadata.entry_points(group=_GROUP):
        value = entry.load()
        specs = list(value) if isinstance(value, Iterable) else [value]
        if not all(isinstance(spec, OpSpec) for spec in specs):
            raise OptionError(
                f"the entry point {entry.name!r} of the group {_GROUP} names no operator specs",
                where=entry.value,
                hint="it must name an onnxslim.ops.spec.OpSpec or several",
            )
        for spec in specs:
            yield spec, entry.value
