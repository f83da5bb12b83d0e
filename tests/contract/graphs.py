"""Odd graphs that every pass has to survive, with one feed each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["GRAPHS", "OddGraph"]


@dataclass(frozen=True)
class OddGraph:
    """A model in the onnx text format; inputs that are not given are drawn at random."""

    text: str
    feed: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    ir_version: int = 10


_FUNCTION = """<ir_version: 10, opset_import: ["" : 17, "local" : 1]>
g (float[2,3] x) => (float[2,3] y) { h = local.outer(x)  y = Identity(h) }
<domain: "local", opset_import: ["" : 17, "local" : 1]>
outer (a) => (b) { c = local.inner<scale = 2.0>(a)  b = Relu(c) }
<domain: "local", opset_import: ["" : 17]>
inner <scale>(a) => (b) {
    k = Constant<value_float: float = @scale>()  one = Constant<value = float {1}>()
    i = Identity(a)
    e = Exp(one)  f = Exp(one)  s = Add(e, f)  m = Mul(i, k)  unread = Neg(i)  b = Mul(m, s) }
<domain: "local", opset_import: ["" : 17]>
unused (a) => (b) { b = Neg(a) }"""

_IF = """g (bool c, float[4] x) => (float[4] y, float[4] z)
<float[4] k = {1,2,3,4}, float[4] same = {1,2,3,4}> {
    e = Exp(x)
    y = If(c) <
        then_branch = t () => (float[4] a)
            <float[4] k2 = {1,2,3,4}> { e2 = Exp(x)  i = Identity(e2)  u = Neg(i)  a = Add(i, k2) },
        else_branch = f () => (float[4] b)
            <float[4] k3 = {5,6,7,8}> { p = Add(k, k3)  q = Add(same, k3)  r = Mul(p, q)  b = Mul(x, r) }>
    z = Add(e, k) }"""

_CONSTANT_IF = """g (float[4] x) => (float[4] y, float[4] z) <bool c = {1}, float[4] k = {1,2,3,4}> {
    n = Not(c)
    y, w = If(c) <
        then_branch = t () => (float[4] a, float[4] i)
            <float[4] i = {5,6,7,8}> { p = Neg(x)  a = Identity(p) },
        else_branch = f () => (float[4] a, float[4] b) { a = Exp(x)  b = Exp(k) }>
    v = If(n) <
        then_branch = t2 () => (float[4] a) { p = Neg(x)  a = Exp(p) },
        else_branch = f2 () => (float[4] a) { p = Abs(x)  a = Exp(p) }>
    z = Add(w, v) }"""

_LOOP = """g (float[2] x) => (float[2] y, float[3,2] all)
<int64 n = {3}, bool go = {1}, float[2] w = {0.5, 0.25}> {
    y, all = Loop(n, go, x) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t, float[2] o)
        <float[2] w2 = {0.5, 0.25}> {
            d = Identity(c)  h = Mul(w, w2)  g2 = Mul(w, w2)  k = Add(h, g2)
            t = Add(s, k)  o = Identity(t) }> }"""

GRAPHS = {
    "input is output": OddGraph("g (float[2] x) => (float[2] x, float[2] y) { y = Identity(x) }"),
    "only passes through": OddGraph("g (float[2] x) => (float[2] y) { y = Identity(x) }"),
    "output is initializer": OddGraph(
        "g (float[2] x) => (float[2] y, float[2] w) <float[2] w = {1,2}> { y = Add(x, w) }"
    ),
    "output is constant": OddGraph(
        "g (float[2] x) => (float[2] y, float[2] c) <float[2] w = {1,2}> { y = Neg(x)  c = Exp(w) }"
    ),
    "two outputs of equal content": OddGraph(
        "g (float[2] x) => (float[2] y, float[2] z) { y = Exp(x)  z = Exp(x) }"
    ),
    "two constant outputs of equal content": OddGraph(
        "g (float[2] x) => (float[2] y, float[2] z, float[2] v)"
        "<float[2] a = {1,2}, float[2] b = {1,2}> { y = Neg(a)  z = Neg(b)  v = Add(x, a) }"
    ),
    "output read inside": OddGraph(
        "g (float[2] x) => (float[2] y, float[2] z) { y = Identity(x)  z = Exp(y) }"
    ),
    "chain of identities to outputs": OddGraph(
        "g (float[2] x) => (float[2] y, float[2] z) { a = Exp(x)  y = Identity(a)  z = Identity(y) }"
    ),
    "shared weight": OddGraph(
        "g (float[1,2,4] x) => (float[1,2,4] y, float[1,2,4] z)"
        "<float[2,2,1] w = {1,2,3,4}, float[2] s = {2,3},"
        "float[2] b = {1,1}, float[2] m = {0,1}, float[2] v = {1,2}>"
        "{ h = Conv(x, w)  y = BatchNormalization(h, s, b, m, v)  z = Conv(x, w) }"
    ),
    "foldable batch norm": OddGraph(
        "g (float[1,2,4] x) => (float[1,2,4] y) <float[2,2,1] w = {1,2,3,4}, float[2] s = {2,3},"
        "float[2] b = {1,1}, float[2] m = {0,1}, float[2] v = {1,2}>"
        "{ h = Conv(x, w)  y = BatchNormalization(h, s, b, m, v) }"
    ),
    "signed zeros and not a number": OddGraph(
        "g (float[2] x) => (float[2] y, float[2] z, float[2] v)"
        "<float[2] a = {0, 1}, float[2] b = {-0.0, 1}, float[2] c = {0, 1}>"
        "{ i = Div(a, b)  y = Add(x, i)  j = Div(a, c)  z = Add(x, j)  p = Add(x, b)  v = Div(x, p) }"
    ),
    "optional inputs": OddGraph(
        "g (float[4] x) => (float[4] y) <float hi = {1}, float h2 = {1}>{ k = Mul(hi, h2)  y = Clip(x, , k) }"
    ),
    "optional outputs": OddGraph(
        "g (float[1,1,4,4] x) => (float[1,1,2,2] y)"
        "{ a, unread = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)  b, mask = Dropout(a)  y = Relu(b) }"
    ),
    "split with an unread part": OddGraph(
        "g (float[6] x) => (float[2] y) <int64[3] s = {2,2,2}>"
        "{ a, b, c = Split<axis=0>(x, s)  y = Add(a, c) }"
    ),
    "overridable default": OddGraph(
        "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1,2}, float[2] v = {1,2}>"
        "{ e = Exp(w)  f = Add(e, v)  y = Add(x, f) }",
        feed={"w": np.float32([7, 8])},
    ),
    "unread input": OddGraph("g (float[2] x, float[3] unread) => (float[2] y) { y = Neg(x) }"),
    "no inputs": OddGraph("g () => (float[2] y) <float[2] w = {1,2}> { y = Exp(w) }"),
    "branches": OddGraph(_IF, feed={"c": np.array(True)}),
    "branches, the other": OddGraph(_IF, feed={"c": np.array(False)}),
    "branches with a constant condition": OddGraph(_CONSTANT_IF),
    "loop": OddGraph(_LOOP),
    "functions": OddGraph(_FUNCTION),
    "shapes, partly known": OddGraph(
        "g (float[n,3,4] x) => (float[n,12] y, int64[2] t)"
        "<int64 zero = {0}, int64 one = {1}, int64 two = {2}> {"
        "s = Shape(x)  a = Gather(s, zero)  b = Gather(s, one)  c = Gather(s, two)  d = Mul(b, c)"
        "ax = Constant<value_ints = [0]>()  a1 = Unsqueeze(a, ax)  d1 = Unsqueeze(d, ax)"
        "t = Concat<axis=0>(a1, d1)  y = Reshape(x, t) }",
        feed={"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)},
    ),
    "integer division": OddGraph(
        "g (int64[2] x) => (int64[2] y) <int64[2] a = {-9, 9}, int64[2] b = {2, -2}>"
        "{ q = Div(a, b)  y = Mul(x, q) }",
        feed={"x": np.int64([3, 4])},
    ),
    "division overflow that never runs": OddGraph(
        "g (bool c, int64[1] x) => (int64[1] y) <int64[1] a = {-9223372036854775807}, int64[1] m = {-1}>"
        "{ y = If(c) <"
        "then_branch = t () => (int64[1] p) { p = Neg(x) },"
        "else_branch = f () => (int64[1] q) { b = Add(a, m)  d = Div(b, m)  q = Add(x, d) }> }",
        feed={"c": np.array(True), "x": np.int64([3])},
    ),
    "strings": OddGraph(
        'g (string[2] x) => (string[2] y) { a = Constant<value_strings = ["b", "c"]>()  i = Identity(a)'
        "  n = StringNormalizer(x)  y = Identity(n) }",
        feed={"x": np.array(["Ab", "cd"], object)},
    ),
    "sequences": OddGraph(
        "g (float[2] x) => (float[4] y) { s = SequenceConstruct(x, x)  i = Identity(s)"
        "  y = ConcatFromSequence<axis=0>(i) }"
    ),
    "quantized weight": OddGraph(
        "g (float[1,2] x) => (float[1,4] y)"
        "<int8[2,4] q = {1,2,3,4,5,6,7,8}, float s = {0.5}, int8 z = {1}>"
        "{ w = DequantizeLinear(q, s, z)  y = MatMul(x, w) }"
    ),
    "movements": OddGraph(
        "g (float[2,3,4] x) => (float[4,6] y, float[2,3,4] z) <int64[2] r = {4, -1}, int64[1] a = {1}> {"
        "t = Transpose<perm=[2,0,1]>(x)  u = Transpose<perm=[0,2,1]>(t)  v = Flatten<axis=2>(u)"
        "y = Reshape(v, r)  "
        "p = Unsqueeze(x, a)  q = Squeeze(p, a)  z = Neg(q) }"
    ),
    "old operator set": OddGraph(
        "g (float[1,3,2,2] x) => (float[1,3,2,2] y) { d, m = Dropout<ratio=0.5>(x)  r = Squeeze<axes=[0]>(d)"
        "  u = Unsqueeze<axes=[0]>(r)  y = Relu(u) }",
        opset=9,
        ir_version=6,
    ),
}
