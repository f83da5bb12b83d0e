"""Every registered operator: what its spec claims, judged by onnxruntime with optimizations off."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.helper
import onnx.shape_inference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxslim._ir import ir
from onnxslim.ops.registry import UNSPECIFIED, all_specs
from onnxslim.ops.spec import Declined, OpSpec
from tests.models import bit_equal, run

SCHEMAS = {(schema.domain, schema.name) for schema in onnx.defs.get_all_schemas()}
EVALUATED = sorted(key for key, spec in all_specs().items() if spec.numpy is not None)
NUMBERS = ("i4", "i8", "f4", "f8")


@dataclass
class Call:
    """One node with its inputs."""

    op_type: str
    inputs: list[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1

    def proto(self) -> onnx.ModelProto:
        names = ["" if array is None else f"i{k}" for k, array in enumerate(self.inputs)]
        results = [f"o{k}" for k in range(self.outputs)]
        node = onnx.helper.make_node(self.op_type, names, results, **self.attributes)
        infos = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in zip(names, self.inputs, strict=True)
            if a is not None
        ]
        ends = [onnx.ValueInfoProto(name=name) for name in results]
        graph = onnx.helper.make_graph([node], "g", infos, ends)
        imports = [onnx.helper.make_opsetid("", self.opset)]
        return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)

    def reference(self) -> list[Any]:
        return run(self.proto(), {f"i{k}": a for k, a in enumerate(self.inputs) if a is not None})

    def check(self) -> bool:
        """Whether the evaluator answered; if so with the runtime's bits, within the size it foretold."""
        spec = all_specs()["", self.op_type]
        node = next(iter(ir.from_proto(self.proto()).graph))
        assert spec.numpy is not None and spec.output_bytes is not None
        with np.errstate(all="ignore"):
            try:
                results = [np.asarray(r) for r in spec.numpy(node, self.inputs)]
            except Declined:
                return False
        bound = spec.output_bytes(node, self.inputs)
        assert bound is not None and bound >= sum(r.nbytes for r in results)
        expected = self.reference()
        for ours, theirs in zip(results, expected, strict=True):
            assert bit_equal(ours, theirs), (self, ours, theirs)
        return True


def arrays(dtypes: tuple[str, ...], shape: tuple[int, ...] = (2, 3)) -> st.SearchStrategy[Any]:
    return st.sampled_from(dtypes).flatmap(lambda t: _array(t, shape))


def _array(dtype: str, shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        special = [0.0, -0.0, 1.0, -1.5, 0.5, 2.5, np.inf, -np.inf, np.nan, 7.0, 6e-8, 65504.0]
        special += [] if kind.itemsize == 2 else [1e-45, 3e38]
        elements = st.one_of(st.sampled_from(special), st.floats(width=kind.itemsize * 8))
        return hnp.arrays(kind, shape, elements=elements.map(kind.type))
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        special = st.sampled_from([0, 1, 2, 7, int(limits.max), int(limits.min)])
        return hnp.arrays(
            kind, shape, elements=st.one_of(special, st.integers(int(limits.min), int(limits.max)))
        )
    return hnp.arrays(kind, shape)


def pairs(dtypes: tuple[str, ...]) -> st.SearchStrategy[list[Any]]:
    shapes = st.sampled_from([((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2,)), ((0, 3), (1,))])
    return st.tuples(st.sampled_from(dtypes), shapes).flatmap(
        lambda p: st.tuples(_array(p[0], p[1][0]), _array(p[0], p[1][1])).map(list)
    )


ALL_INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
BINARY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), NUMBERS),
    **dict.fromkeys(("Mod", "Max", "Min"), ("i4", "i8")),
    **dict.fromkeys(("Greater", "Less", "GreaterOrEqual", "LessOrEqual"), NUMBERS),
    "Equal": (*NUMBERS, "?"),
    **dict.fromkeys(("And", "Or", "Xor"), ("?",)),
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor"), ALL_INTEGERS),
}
UNARY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Neg", "Abs"), NUMBERS),
    **dict.fromkeys(("Floor", "Ceil", "Round", "Sqrt", "IsNaN"), ("f4", "f8")),
    "Sign": ("i4", "i8"),
    "Not": ("?",),
    "BitwiseNot": ALL_INTEGERS,
}


@pytest.mark.parametrize("op_type", BINARY)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_binary_evaluators(op_type: str, data: st.DataObject) -> None:
    Call(op_type, data.draw(pairs(BINARY[op_type])), opset=18).check()


@pytest.mark.parametrize("op_type", UNARY)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_unary_evaluators(op_type: str, data: st.DataObject) -> None:
    Call(op_type, [data.draw(arrays(UNARY[op_type], (37,)))], opset=18).check()


CASTABLE = ("?", *ALL_INTEGERS, "f2", "f4", "f8")


@pytest.mark.parametrize("target", CASTABLE)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_casts(target: str, data: st.DataObject) -> None:
    array = data.draw(arrays(CASTABLE, (19,)))
    Call("Cast", [array], {"to": onnx.helper.np_dtype_to_tensor_dtype(np.dtype(target))}).check()
    Call("CastLike", [array, np.zeros(1, target)]).check()


@settings(max_examples=60, deadline=None)
@given(
    start=st.lists(st.integers(-9, 9), min_size=2, max_size=2),
    end=st.lists(st.sampled_from([-9, -2, 0, 1, 3, 2**31 - 1, 2**63 - 1, -(2**63)]), min_size=2, max_size=2),
    step=st.lists(st.sampled_from([-3, -1, 1, 2]), min_size=2, max_size=2),
    axes=st.permutations([0, 1, -1, 2]),
)
def test_slices(start: list[int], end: list[int], step: list[int], axes: list[int]) -> None:
    data = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    axes = axes[:2]
    if {a % 3 for a in axes} == {2}:
        return
    vectors = [np.array(v, np.int64) for v in (start, end, axes, step)]
    Call("Slice", [data, *vectors]).check()
    Call("Slice", [data], {"starts": start, "ends": end, "axes": [a % 3 for a in axes]}, opset=9).check()


def i64(*values: int) -> Any:
    return np.array(values, np.int64)


def fixed() -> Iterator[Call]:
    """Forms and versions of the operators that hypothesis does not reach."""
    for dtype in ("?", "u1", "i4", "i8", "f4", "f8"):
        x = np.arange(24).reshape(2, 3, 4).astype(dtype)
        yield Call("Identity", [x])
        yield Call("Reshape", [x, i64(0, -1)])
        yield Call("Reshape", [x, i64(4, 6)], {"allowzero": 1})
        yield Call("Reshape", [x[:0], i64(0, 7)], {"allowzero": 1})
        yield Call("Reshape", [x, i64(-1)], opset=5)
        for axis in (0, 1, 3, -1):
            yield Call("Flatten", [x], {"axis": axis})
        yield Call("Squeeze", [x[:1, :, :1]], opset=13)
        yield Call("Squeeze", [x[:1, :, :1], i64(0, -1)], opset=13)
        yield Call("Squeeze", [x[:1]], {"axes": [0]}, opset=11)
        yield Call("Unsqueeze", [x, i64(0, -1)], opset=13)
        yield Call("Unsqueeze", [x], {"axes": [0, 4]}, opset=11)
        yield Call("Transpose", [x])
        yield Call("Transpose", [x], {"perm": [1, 2, 0]})
        yield Call("Concat", [x, x[:1], x[:0]], {"axis": 0})
        yield Call("Concat", [x, x], {"axis": -1})
        yield Call("Shape", [x])
        yield Call("Shape", [x], {"start": -2, "end": 99})
        yield Call("Size", [x])
        yield Call("Gather", [x, i64(-1, 0)], {"axis": 1})
        yield Call("Gather", [x, np.array(1, np.int32)])
        if dtype not in "?f8":  # no kernel
            yield Call("Where", [x[:, :1] > x.dtype.type(0), x, x])
    for dtype in ("i4", "i8", "f4"):
        x = np.arange(24).reshape(2, 3, 4).astype(dtype)
        yield Call("Split", [x], {"axis": 2}, opset=13, outputs=2)
        yield Call("Split", [x, i64(1, 3)], {"axis": -1}, opset=13, outputs=2)
        yield Call("Split", [x], {"axis": 2, "split": [3, 1]}, opset=11, outputs=2)
        yield Call("Split", [x], {"axis": 2, "num_outputs": 3}, opset=18, outputs=3)
        yield Call("Expand", [x[:1], i64(5, 3, 1)])
        yield Call("Expand", [x[:1, :1, :1], i64(2, 1, 1, 3)])
        yield Call("Tile", [x, i64(2, 1, 3)])
        yield Call("Tile", [x, i64(2, 0, 3)])
        yield Call("GatherElements", [x, i64(1, -1, 0).reshape(1, 3, 1)], {"axis": 0})
        yield Call("GatherND", [x, i64(1, 0, 0, -1).reshape(2, 2)])
        yield Call("NonZero", [x])
        fill = onnx.helper.make_tensor("v", onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), [1], [3])
        yield Call("ConstantOfShape", [i64(2, 3)], {"value": fill})
        yield Call("ConstantOfShape", [i64()])
        yield Call("ConstantOfShape", [i64(0, 2)])
    for dtype in ("i2", "i4", "i8"):
        for bounds in ((0, 7, 2), (7, 0, -2), (3, 3, 1), (5, 1, 1), (-3, 4, 7)):
            yield Call("Range", [np.array(bound, dtype) for bound in bounds])
    for dtype in ("i4", "i8"):
        x = np.arange(-12, 12).reshape(2, 3, 4).astype(dtype)
        low, high = np.array(-3, dtype), np.array(5, dtype)
        for inputs in ([x, low, high], [x, None, high], [x, low], [x]):
            yield Call("Clip", inputs)
        for name in ("Sum", "Prod", "Max", "Min"):
            yield Call(f"Reduce{name}", [x], {"keepdims": 0}, opset=11)
            yield Call(f"Reduce{name}", [x, i64(0, -1)], opset=18)
            yield Call(f"Reduce{name}", [x], {"noop_with_empty_axes": 1}, opset=18)
            yield Call(f"Reduce{name}", [x], {"axes": [1]}, opset=11)
        yield Call("Max", [x, x[::-1].copy(), x[:1]], opset=13)
    for dtype in ("u1", "u4", "u8"):
        for direction in ("LEFT", "RIGHT"):
            yield Call(
                "BitShift", [np.array([255, 3], dtype), np.array([7, 1], dtype)], {"direction": direction}
            )


@pytest.mark.parametrize("call", list(fixed()), ids=lambda c: f"{c.op_type}-{c.opset}")
def test_fixed_calls(call: Call) -> None:
    call.check()


def test_every_evaluator_answers_some_call() -> None:
    """No evaluator goes untested, and none declines everything."""
    answered = {call.op_type for call in fixed() if call.check()}
    one = {
        "f": np.array([2.0, 3.0]),
        "i": np.array([2, 3]),
        "b": np.array([True, False]),
        "u": np.array([2, 3]),
    }
    for table, arity in ((BINARY, 2), (UNARY, 1)):
        for op_type, dtypes in table.items():
            for dtype in dtypes:
                array = one[np.dtype(dtype).kind].astype(dtype)
                assert Call(op_type, [array] * arity, opset=18).check(), (op_type, dtype)
                answered.add(op_type)
    answered |= {"Slice", "Cast", "CastLike"}
    assert answered == {op_type for _, op_type in EVALUATED}


@pytest.mark.parametrize(
    "call",
    [
        Call("Div", [i64(5), i64(0)]),
        Call("Div", [i64(-(2**63)), i64(-1)]),
        Call("Mod", [i64(-(2**63)), i64(-1)]),
        Call("Mod", [i64(5), i64(0)]),
        Call("BitShift", [np.array([1], np.uint8), np.array([8], np.uint8)], {"direction": "LEFT"}),
        Call("Cast", [np.array([np.nan], np.float32)], {"to": onnx.TensorProto.INT64}),
        Call("Cast", [np.array([1e30], np.float32)], {"to": onnx.TensorProto.INT32}),
        Call("Range", [i64(0).reshape(()), i64(5).reshape(()), i64(0).reshape(())]),
        Call("Mul", [np.array([np.inf], np.float32), np.array([0], np.float32)]),
    ],
    ids=lambda c: c.op_type,
)
def test_undefined_results_are_declined(call: Call) -> None:
    spec = all_specs()["", call.op_type]
    node = next(iter(ir.from_proto(call.proto()).graph))
    assert spec.numpy is not None
    with np.errstate(all="ignore"), pytest.raises(Declined):
        spec.numpy(node, call.inputs)


BOMBS = {
    "ConstantOfShape": [i64(1 << 40, 1 << 40)],
    "Expand": [np.zeros(1, np.float32), i64(1 << 62, 1 << 62)],
    "Tile": [np.zeros(4, np.float32), i64((1 << 63) - 1)],
    "Range": [i64(-(1 << 62)), i64(1 << 62), i64(1)],
    "OneHot": [i64(1), i64((1 << 63) - 1), i64(0, 1)],
    "Pad": [np.zeros(4, np.float32), i64(1 << 62, 1 << 62)],
    "Resize": [np.zeros((1, 4), np.float32), None, np.array([1e9, 1e9], np.float32)],
    "CenterCropPad": [np.zeros(4, np.float32), i64(1 << 62)],
    "HannWindow": [i64(1 << 62)],
    "MelWeightMatrix": [i64(1 << 40), i64(1 << 40)],
}


@pytest.mark.parametrize("op_type", BOMBS)
def test_bombs_are_sized_before_they_go_off(op_type: str) -> None:
    spec = all_specs()["", op_type]
    node = ir.node(op_type, [ir.Value(name=str(i)) for i in range(len(BOMBS[op_type]))])
    assert spec.output_bytes is not None
    size = spec.output_bytes(node, BOMBS[op_type])
    assert size is not None and size > 1 << 50


@pytest.mark.parametrize("op_type", BOMBS)
def test_negative_sizes_are_harmless(op_type: str) -> None:
    spec = all_specs()["", op_type]
    inputs = [a if a is None else np.minimum(a, -a) for a in BOMBS[op_type]]
    assert spec.output_bytes is not None
    size = spec.output_bytes(ir.node(op_type, [ir.Value(name="x") for _ in inputs]), inputs)
    assert size is None or size >= 0


@functools.cache
def backend_nodes() -> Mapping[str, tuple[onnx.ModelProto, list[Any], list[Any]]]:
    """The single-node cases of the onnx backend tests: name -> (model, inputs, expected outputs)."""
    from onnx.backend.test.case.node import collect_testcases

    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx's own, while it makes up its data
        cases = collect_testcases(None)
    for case in cases:
        if case.model is not None and len(case.model.graph.node) == 1 and case.data_sets:
            found[case.name] = (case.model, *case.data_sets[0])
    return found


def test_backend_cases_agree() -> None:
    """Evaluators and sizes against the expected outputs of onnx's own cases."""
    evaluated = sized = 0
    for name, (case, inputs, outputs) in backend_nodes().items():
        node = next(iter(ir.from_proto(case).graph))
        spec = all_specs().get((node.domain, node.op_type))
        if spec is None or spec.output_bytes is None:
            continue
        if not all(isinstance(array, np.ndarray) for array in (*inputs, *outputs)):
            continue
        feed = dict(zip([value.name for value in case.graph.input], inputs, strict=True))
        arrays = [None if v is None else feed[v.name] for v in node.inputs]
        bound = spec.output_bytes(node, arrays)
        if bound is not None and outputs and all(a.dtype.kind not in "OUS" for a in outputs):
            assert bound >= sum(np.asarray(a).nbytes for a in outputs), name
            sized += 1
        if spec.numpy is None:
            continue
        with np.errstate(all="ignore"):
            try:
                results = spec.numpy(node, arrays)
            except Declined:
                continue
        for ours, theirs in zip(results, outputs, strict=False):
            assert bit_equal(ours, theirs), name
        evaluated += 1
    assert evaluated > 150 and sized > 300


@pytest.mark.parametrize("key", sorted(SCHEMAS), ids=lambda k: ".".join(filter(None, k)))
def test_every_standard_operator_is_specified_or_named(key: tuple[str, str]) -> None:
    assert (key in all_specs()) != (key in UNSPECIFIED)


def test_standard_specs_name_standard_operators() -> None:
    assert {key for key in all_specs() if not key[0].startswith("com.")} <= SCHEMAS


@pytest.mark.parametrize("spec", all_specs().values(), ids=lambda s: f"{s.domain}.{s.op_type}".lstrip("."))
def test_specs_are_consistent(spec: OpSpec) -> None:
    assert spec.numpy is None or (spec.foldable and spec.output_bytes is not None)
    assert not spec.foldable or spec.pure
    if spec.quant is not None and spec.quant.weight is not None:
        assert spec.quant.weight_axis is not None or spec.quant.integer
    node = ir.node(spec.op_type, [], domain=spec.domain)
    for evaluate in (spec.macs,):  # nothing known: no crash and no number out of thin air
        assert evaluate is None or evaluate(node, lambda value: None) in (None, 0)
