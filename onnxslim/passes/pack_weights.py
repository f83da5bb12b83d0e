"""Store float weights as 8-bit integers that the runtime decodes once, while it loads the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.selection import Selection
from onnxslim.errors import OptionError
from onnxslim.model import edit
from onnxslim.ops.registry import is_constant, is_dequantize, is_quantize, spec_of
from onnxslim.passes.base import Pass, Promise
from onnxslim.reconstruct.rounding import Rounded, round_best, round_symmetric, sqnr_db

__all__ = ["PackWeights"]

Array = npt.NDArray[Any]

_MIN_OPSET = 7  # arithmetic broadcasts since then
_NODE_BYTES = 250  # what the decoding nodes and the second tensor cost in the file, names aside
_CLEARLY_DB = 6.0
_LOOKUP_BYTES = 1 << 20  # tables of this size and above are looked up before they are decoded


@dataclass(frozen=True)
class PackWeights(Pass):
    """Store float32 weights as int8 with scales, behind ``Cast`` and ``Mul``.

    onnxruntime folds the two nodes while it loads the model, at every optimization level but "none", also in
    branches; the kernels then see float weights as before, fused as before.  So the file shrinks to a quarter
    and the speed stays exactly what it was.  (``DequantizeLinear`` would not do: it is kept for run time.)

    1. A large table that only ``Gather`` reads along its first axis stays int8 in memory too: rows are
       gathered first and decoded then.
    2. Any other weight is decoded as a whole; all its readers share the decoded tensor, so tied weights are
       packed once.

    Scales lie along the axis, or two, that leave the least error.  Declined: weights whose signal to noise
    ratio would fall below ``min_sqnr_db``, or whose decoded values would not be finite.

    Example:
        >>> graph = ir.Graph([], [], nodes=[], opset_imports={"": 17})
        >>> w = edit.add_initializer(graph, np.random.rand(64, 64).astype("f"), "w")
        >>> graph.append(ir.node("Relu", [w]))
        >>> PackWeights()(ir.Model(graph, ir_version=8)).modified, [node.op_type for node in graph]
        (True, ['Cast', 'Mul', 'Relu'])
    """

    name: ClassVar[str] = "pack-weights"
    promise: ClassVar[Promise] = Promise.LOSSY

    min_sqnr_db: float = field(
        default=25.0, metadata={"help": "leave a weight in float when its rounding is noisier than this"}
    )
    exclude: str = field(
        default="",
        metadata={"help": "leave these weights alone: comma-separated globs of names, or op:Conv by readers"},
    )

    def __post_init__(self) -> None:
        if not self.min_sqnr_db >= 0:
            raise OptionError(f"min_sqnr_db must not be negative, is {self.min_sqnr_db}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports.get("", 0)
        if opset < _MIN_OPSET:
            self.decline(model.graph.name or "graph", f"opset {opset} is older than {_MIN_OPSET}")
            return ir.passes.PassResult(model, False)
        modified = False
        for scope in edit.scopes(model):
            for value in list(_constants(scope)):
                modified |= self._pack(scope, value)
        return ir.passes.PassResult(model, modified)

    def _pack(self, scope: edit.Scope, value: ir.Value) -> bool:
        users = value.uses()
        if not users or value.is_graph_output() or value.is_graph_input():
            return False
        if any(_is_decoding(user, index) for user, index in users):
            return False
        tensor = value.const_value if value.is_initializer() else None
        if tensor is not None and (tensor.dtype != ir.DataType.FLOAT or not self._saves(value, tensor.size)):
            return False  # told without reading the content
        weight = edit.constant_value(value)
        if weight is None or weight.dtype != np.float32 or not self._saves(value, weight.size):
            return False
        name = value.name or ""
        excluded = Selection.parse(self.exclude)
        if excluded.has_name(name) or any(excluded.has_operator(user.op_type) for user, _ in users):
            self.decline(name, "excluded by the user")
            return False
        if not np.isfinite(weight).all():
            self.decline(name, "the weight is not finite")
            return False
        lookup = weight.nbytes >= _LOOKUP_BYTES and all(_is_row_lookup(*use) for use in users)
        rounded = _round_rows(weight) if lookup else round_best(weight)
        decoded = rounded.decode()
        quality = sqnr_db(weight, decoded)
        if not np.isfinite(decoded).all() or quality < self.min_sqnr_db:
            self.decline(name, f"8 bits would leave {quality:.0f} dB, below {self.min_sqnr_db:g}")
            return False
        if lookup:
            _decode_rows(scope, value, rounded)
        else:
            _decode_whole(scope, value, rounded)
        _remove(scope, value)
        return True

    @staticmethod
    def _saves(value: ir.Value, size: int) -> bool:
        """Whether the file surely shrinks: of 4 bytes at most 1.5 stay, and nodes come on top."""
        return 2.5 * size > _NODE_BYTES + 8 * len(value.name or "")


def _constants(scope: edit.Scope) -> Iterator[ir.Value]:
    if isinstance(scope, ir.Graph):
        yield from scope.initializers.values()
    for node in scope:
        if is_constant(node):
            yield node.outputs[0]


def _round_rows(weight: Array) -> Rounded:
    """Scales that can be applied to single rows: one for each column, or for each row where that is clearly
    better, since those have to be looked up too."""
    columns = round_symmetric(weight, tuple(range(1, weight.ndim)))
    rows = round_symmetric(weight, (0,))
    gain = sqnr_db(weight, rows.decode()) - sqnr_db(weight, columns.decode())
    return rows if gain > _CLEARLY_DB else columns


def _is_row_lookup(user: ir.Node, index: int) -> bool:
    return (
        user.op_type == "Gather"
        and user.domain == ""
        and index == 0
        and user.attributes.get_int("axis", 0) == 0
    )


def _is_decoding(user: ir.Node, index: int) -> bool:
    """Whether the value is a scale already: of a quantizer, or of a decoding such as this pass makes."""
    if is_quantize(user) or is_dequantize(user):
        return True
    if user.op_type == "Gather" and index == 0:  # the scales of a table, looked up beside its rows
        return any(_is_decoding(reader, slot) for reader, slot in user.outputs[0].uses())
    if user.op_type != "Mul" or len(user.inputs) != 2:
        return False
    other = user.inputs[1 - index]
    cast = other.producer() if other is not None else None
    if cast is None or cast.op_type != "Cast" or cast.inputs[0] is None:
        return False
    source = cast.inputs[0]
    rows = source.producer()
    if rows is not None and rows.op_type == "Cast" and rows.inputs[0] is not None:
        source, rows = rows.inputs[0], None
    if rows is not None and rows.op_type == "Gather" and rows.inputs[0] is not None:
        source = rows.inputs[0]
    stored = edit.constant_value(source)
    return stored is not None and stored.dtype == np.int8


def _decode_whole(scope: edit.Scope, value: ir.Value, rounded: Rounded) -> None:
    first = next(iter(scope))
    q = _store(scope, rounded.q, f"{value.name}_q", first)
    scale = _store(scope, rounded.scale, f"{value.name}_s", first)
    nodes = []
    if not _per_output(value, rounded):
        # OpenVINO 2026.4 takes Cast and Mul before a product for scales per output channel, wherever they lie,
        # and computes something else; it does not look through a second Cast
        nodes.append(ir.node("Cast", [q], {"to": ir.DataType.INT32}))
        q = nodes[0].outputs[0]
    cast = ir.node("Cast", [q], {"to": ir.DataType.FLOAT})
    mul = ir.node("Mul", [cast.outputs[0], scale])
    _insert(scope, first, [*nodes, cast, mul], rounded.q.shape, value)
    edit.replace_uses(value, mul.outputs[0])


def _per_output(value: ir.Value, rounded: Rounded) -> bool:
    """Whether the scales lie along the output channels of every reader of the weight, or there is only one."""
    axes = tuple(axis for axis, size in enumerate(rounded.scale.shape) if size > 1)
    for user, index in value.uses():
        spec = spec_of(user)
        role = spec.quant if spec is not None else None
        if role is None or role.weight != index or role.weight_axis is None:
            continue
        axis = role.weight_axis(user)
        if axes and axes != ((axis or 0) % rounded.q.ndim,):
            return False
    return True


def _decode_rows(scope: edit.Scope, value: ir.Value, rounded: Rounded) -> None:
    first = next(iter(scope))
    q = _store(scope, rounded.q, f"{value.name}_q", first)
    per_row = rounded.scale.shape[0] > 1
    array = rounded.scale if per_row else rounded.scale[0]
    scale = _store(scope, array, f"{value.name}_s", first)
    for gather in {user: None for user, _ in value.uses()}:
        owner = gather.graph
        assert owner is not None
        old, indices = gather.outputs[0], gather.inputs[1]
        rows = ir.node("Gather", [q, indices], {"axis": 0})
        new = [rows]
        factor = scale
        if per_row:
            factors = ir.node("Gather", [scale, indices], {"axis": 0})
            new.append(factors)
            factor = factors.outputs[0]
        cast = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
        mul = ir.node("Mul", [cast.outputs[0], factor])
        new += [cast, mul]
        for node in new:
            _name(owner, node.outputs[0], f"{old.name}_{node.op_type.lower()}")
        mul.outputs[0].shape, mul.outputs[0].type = old.shape, old.type
        owner.insert_before(gather, new)
        edit.replace_uses(old, mul.outputs[0])
        edit.remove_node(gather)


def _store(scope: edit.Scope, array: Array, name: str, first: ir.Node) -> ir.Value:
    if isinstance(scope, ir.Graph):
        return edit.add_initializer(scope, array, name)
    tensor = edit.tensor_from(array, name)  # functions have no initializers
    node = ir.node("Constant", [], {"value": tensor})
    _name(scope, node.outputs[0], name)
    node.outputs[0].shape, node.outputs[0].type = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
    scope.insert_before(first, [node])
    return node.outputs[0]


def _insert(
    scope: edit.Scope, first: ir.Node, nodes: Sequence[ir.Node], shape: tuple[int, ...], value: ir.Value
) -> None:
    for node, suffix, dtype in zip(
        reversed(nodes), "wfi", (ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.INT32), strict=False
    ):
        _name(scope, node.outputs[0], f"{value.name}_{suffix}")
        node.outputs[0].shape, node.outputs[0].type = ir.Shape(shape), ir.TensorType(dtype)
    scope.insert_before(first, nodes)


def _name(owner: edit.Scope, value: ir.Value, hint: str) -> None:
    value.name = edit.unique_name(owner, hint)


def _remove(scope: edit.Scope, value: ir.Value) -> None:
    node = value.producer()
    if node is not None:
        edit.remove_node(node)
    elif isinstance(scope, ir.Graph) and value.name is not None:
        del scope.initializers[value.name]
