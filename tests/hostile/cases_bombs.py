"""Models that are small on disk and huge, endless or deadly once a constant is folded or the model is run.

In a branch that is never taken they are harmless to whoever runs the model, and must be to us.  In plain
sight nobody can run them: refusing is right, and so is returning them unfolded.  Each model has a node to
remove, so that there is something to verify.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from tests.hostile.corpus import Maker, kept, survived
from tests.models import proto

GIGABYTES = "int64[3] big = {65536, 1024, 1024}"  # 64 Gi elements
BOMBS = {  # name -> (initializers, nodes that compute `bomb`)
    "constant_of_shape": (GIGABYTES, "bomb = ConstantOfShape(big)"),
    "expand": (f"{GIGABYTES}, float one = {{1}}", "bomb = Expand(one, big)"),
    "tile": (f"{GIGABYTES}, float[1, 1, 1] one = {{1}}", "bomb = Tile(one, big)"),
    "range": (
        "int64 first = {0}, int64 last = {68719476736}, int64 step = {1}",
        "bomb = Range(first, last, step)",
    ),
    "resize": (
        "float[1, 1, 1, 1] one = {1}, float[4] scales = {1, 1, 262144, 262144}",
        'bomb = Resize<mode = "nearest">(one, "", scales)',
    ),
    "pad": ("float[1] one = {1}, int64[2] pads = {0, 68719476736}", "bomb = Pad(one, pads)"),
    "one_hot": (
        "int64[4] index = {0, 1, 2, 3}, int64 depth = {34359738368}, float[2] onoff = {0, 1}",
        "bomb = OneHot(index, depth, onoff)",
    ),
    "doubling": (
        "float[1024] t0 = {" + ", ".join(["1"] * 1024) + "}",
        " ".join(f"t{i + 1} = Concat<axis = 0>(t{i}, t{i})" for i in range(26)) + " bomb = Identity(t26)",
    ),
    "outer_product": (
        "int64[2] column = {262144, 1}, int64[2] row = {1, 262144}",
        "a = ConstantOfShape(column) b = ConstantOfShape(row) bomb = MatMul(a, b)",
    ),
    "endless_loop": (
        "int64 trips = {9223372036854775807}, bool go = {1}, float s0 = {1}",
        """bomb = Loop(trips, go, s0) <body = lb (int64 li, bool lc, float ls) => (bool lo, float lr)
            { lo = Identity(lc) lr = Neg(ls) }>""",
    ),
    "growing_loop": (
        "int64 trips = {1000000000}, bool go = {1}, float[4] s0 = {1, 2, 3, 4}",
        """last, bomb = Loop(trips, go, s0) <
            body = lb (int64 li, bool lc, float[4] ls) => (bool lo, float[4] lr, float[4] lt)
            { lo = Identity(lc) lr = Neg(ls) lt = Neg(ls) }>""",
    ),
    "smallest_integer_by_minus_one": (
        "int64[1] smallest = {-9223372036854775808}, int64[1] minus = {-1}",
        "bomb = Div(smallest, minus)",
    ),
    "remainder_of_the_smallest_integer": (
        "int64[1] smallest = {-9223372036854775808}, int64[1] minus = {-1}",
        "bomb = Mod(smallest, minus)",
    ),
    "division_by_zero": ("int32[1] one = {1}, int32[1] zero = {0}", "bomb = Div(one, zero)"),
}


UNRUNNABLE = {"division_by_zero"}  # onnxruntime looks for it in every branch and refuses the model


def _in_plain_sight(initializers: str, nodes: str) -> Maker:
    def make(folder: Path) -> onnx.ModelProto:
        return proto(
            f"""g (float[2] x) => (float[2] y, int64[k] s) <{initializers}> {{
                {nodes} s = Shape(bomb) i = Identity(x) y = Relu(i)
            }}"""
        )

    return make


def _as_output(initializers: str, nodes: str) -> Maker:
    def make(folder: Path) -> onnx.ModelProto:
        return proto(
            f"""g (float[2] x) => (float[2] y, float z) <{initializers}> {{
                {nodes} f = Cast<to = 1>(bomb) z = ReduceMax<keepdims = 0>(f) i = Identity(x) y = Relu(i)
            }}"""
        )

    return make


def _never_taken(initializers: str, nodes: str) -> Maker:
    """The condition is an input that the test feeds False."""

    def make(folder: Path) -> onnx.ModelProto:
        return proto(f"""g (float[2] x, bool never) => (float[2] y, int64[k] s) {{
            i = Identity(x) y = Relu(i)
            s = If (never) <then_branch = p () => (int64[m] u) <{initializers}> {{ {nodes} u = Shape(bomb) }},
                            else_branch = q () => (int64[n] v) {{ v = Shape(x) }}>
        }}""")

    return make


def _constant_condition(initializers: str, nodes: str) -> Maker:
    def make(folder: Path) -> onnx.ModelProto:
        return proto(f"""g (float[2] x) => (float[2] y, int64[k] s) <bool never = {{0}}> {{
            i = Identity(x) y = Relu(i)
            s = If (never) <then_branch = p () => (int64[m] u) <{initializers}> {{ {nodes} u = Shape(bomb) }},
                            else_branch = q () => (int64[n] v) {{ v = Shape(x) }}>
        }}""")

    return make


_FORMS: dict[str, tuple[Callable[[Maker], Maker], Callable[[str, str], Maker]]] = {
    "in_plain_sight": (survived, _in_plain_sight),
    "as_output": (survived, _as_output),
    "never_taken": (kept, _never_taken),
    "constant_condition": (kept, _constant_condition),
}
for _form, (_register, _build) in _FORMS.items():
    for _name, _parts in BOMBS.items():
        _make = _build(*_parts)
        _make.__name__ = f"{_name}_{_form}"
        _make.__module__ = __name__
        (survived if _name in UNRUNNABLE else _register)(_make)
