"""Small graphs for ``test_channels``: each has the operator of its name between two weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tests.contract.channels import Case

__all__ = ["CASES"]

IMAGE = "(float[N,3,8,8] x) => (float[N,4,H,W] y)"
CONVS = {"a": (6, 3, 3, 3), "b": (4, 6, 1, 1)}
ROWS = "(float[N,5] x) => (float[N,3] y)"
STEPS = "(float[N,7,5] x) => (float[N,T,3] y)"
DENSE = {"a": (5, 12), "b": (12, 3)}


def image(
    body: str, groups: int = 1, opset: int = 18, pads: Sequence[int] = (), **weights: tuple[int, ...]
) -> Case:
    text = f"g {IMAGE} {{ h = Conv<pads=[1,1,1,1]>(x, a)  {body}  y = Conv(z, b) }}"
    integers = {"p": pads} if pads else {}
    return Case(text, {**CONVS, **weights}, integers, groups, opset)


def rows(
    body: str, integers: Mapping[str, Any] = MappingProxyType({}), groups: int = 1, **weights: tuple[int, ...]
) -> Case:
    text = f"g {ROWS} {{ h = MatMul(x, a)  {body}  y = MatMul(z, b) }}"
    return Case(text, {**DENSE, **weights}, integers, groups)


def recurrent(op: str, gates: int, extra: str = "") -> Case:
    text = f"""g (float[T,N,5] x) => (float[T,N,3] y) {{
        r, s{extra and ", c"} = {op}<hidden_size=6, direction="bidirectional">(x, w, r_, bias)
        t = Transpose<perm=[0,2,1,3]>(r)  u = Reshape(t, shape)  y = MatMul(u, b) }}"""
    weights = {"w": (2, 6 * gates, 5), "r_": (2, 6 * gates, 6), "bias": (2, 12 * gates), "b": (12, 3)}
    return Case(text, weights, {"shape": [0, 0, -1]})


ELEMENTWISE = {
    name: rows(f"z = {name}(h)")
    for name in (
        "Abs", "Atan", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish",
        "Identity",
        "LeakyRelu", "Mish", "Neg", "Relu", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign",
        "Tanh", "ThresholdedRelu", "Dropout",
    )
}  # fmt: skip

CASES: dict[str, Case] = {
    **ELEMENTWISE,
    "Conv": image("z = Relu(h)"),
    "Conv depthwise": image("z = Conv<group=6, pads=[1,1,1,1]>(h, d, e)", d=(6, 1, 3, 3), e=(6,)),
    "Conv groups": image("i = Conv<group=2>(h, d)  z = Relu(i)", 3, d=(6, 3, 1, 1)),
    "ConvTranspose": image("z = ConvTranspose(h, d, e)", 2, d=(6, 6, 2, 2), e=(6,)),
    "ConvTranspose groups": image("z = ConvTranspose<group=3>(h, d)", 3, d=(6, 2, 2, 2)),
    "BatchNormalization": image("z = BatchNormalization(h, s, t, m, var)", s=(6,), t=(6,), m=(6,), var=(6,)),
    "InstanceNormalization": image("z = InstanceNormalization(h, s, t)", s=(6,), t=(6,)),
    "GroupNormalization": image("z = GroupNormalization<num_groups=3>(h, s, t)", opset=21, s=(6,), t=(6,)),
    "LpNormalization": image("z = LpNormalization<axis=1>(h)"),
    "MeanVarianceNormalization": image("z = MeanVarianceNormalization<axes=[2,3]>(h)"),
    "PRelu": image("z = PRelu(h, s)", s=(6, 1, 1)),
    "AveragePool": image("z = AveragePool<kernel_shape=[2,2]>(h)"),
    "MaxPool": image("z = MaxPool<kernel_shape=[2,2], strides=[2,2]>(h)"),
    "LpPool": image("z = LpPool<kernel_shape=[2,2]>(h)"),
    "GlobalAveragePool": image("z = GlobalAveragePool(h)"),
    "GlobalMaxPool": image("z = GlobalMaxPool(h)"),
    "GlobalLpPool": image("z = GlobalLpPool(h)"),
    "squeeze and excite": image(
        "p = GlobalAveragePool(h) q = Conv(p, c) r = Relu(q) s = Conv(r, d) t = Sigmoid(s) z = Mul(h, t)",
        2, c=(4, 6, 1, 1), d=(6, 4, 1, 1)),
    "residual": image("i = Conv<pads=[1,1,1,1]>(h, c)  z = Add(h, i)", c=(6, 6, 3, 3)),
    "Concat": image("i = Conv(h, c)  z = Concat<axis=1>(h, i)", 2, c=(3, 6, 1, 1), b=(4, 9, 1, 1)),
    "Resize": Case(f"g {IMAGE} {{ h = Conv(x, a) z = Resize<mode=\"nearest\">(h, , s) y = Conv(z, b) }}",
                   CONVS, {}, floats={"s": [1, 1, 2, 2]}),
    "DepthToSpace": Case(f"g {IMAGE} {{ h = Conv(x, a) z = DepthToSpace<blocksize=2>(h) y = Conv(z, b) }}",
                         {"a": (12, 3, 1, 1), "b": (4, 3, 1, 1)}),
    "DepthToSpace CRD": Case(
        f"g {IMAGE} {{ h = Conv(x, a) z = DepthToSpace<blocksize=2, mode=\"CRD\">(h) y = Conv(z, b) }}",
        {"a": (12, 3, 1, 1), "b": (4, 3, 1, 1)}),
    "SpaceToDepth": Case(f"g {IMAGE} {{ h = Conv(x, a) z = SpaceToDepth<blocksize=2>(h) y = Conv(z, b) }}",
                         {"a": (6, 3, 1, 1), "b": (4, 24, 1, 1)}),
    "Flatten": Case("g (float[N,3,4,4] x) => (float[N,2] y) { h = Conv(x, a) f = Flatten(h) y = Gemm(f, "
        "b, c) }",
                    {"a": (6, 3, 1, 1), "b": (96, 2), "c": (2,)}),
    "Gemm": Case(f"g {ROWS} {{ h = Gemm<transB=1>(x, a, c) r = Relu(h) y = Gemm(r, b) }}",
                 {"a": (12, 5), "b": (12, 3), "c": (12,)}),
    "MatMul": rows("z = Relu(h)"),
    "MatMul left": Case("g (float[N,5,4] x) => (float[N,3,4] y) { h = MatMul(a, x) r = Tanh(h) y = "
        "MatMul(b, r) }",
                        {"a": (6, 5), "b": (3, 6)}),
    "Einsum": Case("g (float[N,7,5] x) => (float[N,7,3] y) { "
                   "h = Einsum<equation=\"btc,chd->bthd\">(x, a) y = "
                       "Einsum<equation=\"bthd,hde->bte\">(h, b) }",
                   {"a": (5, 4, 3), "b": (4, 3, 3)}, groups=2),
    "Add": rows("z = Add(h, c)", c=(12,)),
    "Sub": rows("z = Sub(c, h)", c=(1, 12)),
    "Mul": rows("z = Mul(h, c)", c=(12,)),
    "Div": rows("z = Div(h, c)", c=(12,)),
    "Pow": rows("i = Abs(h) z = Pow(i, c)", c=(12,)),
    "Max": rows("z = Max(h, c)", c=(12,)),
    "Min": rows("z = Min(h, c)", c=(12,)),
    "Sum": rows("z = Sum(h, c, c)", c=(12,)),
    "Mean": rows("z = Mean(h, c)", c=(12,)),
    "Clip": rows("z = Clip(h)"),
    "Where": rows("m = Greater(h, c) z = Where(m, h, c)", c=(12,)),
    "Cast": rows("i = Cast<to=11>(h) z = Cast<to=1>(i)"),
    "Transpose": Case("g (float[N,7,5] x) => (float[N,3,7] y) { h = MatMul(x, a) t = "
        "Transpose<perm=[0,2,1]>(h) "
                      "y = MatMul(b, t) }", {"a": (5, 12), "b": (3, 12)}),
    "Split": Case("g (float[N,5] x) => (float[N,3] y) { h = MatMul(x, a) i, j = Split<axis=1>(h, s) "
                  "k = MatMul(i, c) y = Add(k, k2) k2 = MatMul(j, b) }".replace(
                      "y = Add(k, k2) k2 = MatMul(j, b)", "l = MatMul(j, b) y = Add(k, l)"),
                  {"a": (5, 12), "c": (4, 3), "b": (8, 3)}, {"s": [4, 8]}, groups=2),
    "Split of equal parts": Case(
        f"g {ROWS} {{ h = MatMul(x, a) i, j = Split<axis=1, num_outputs=2>(h) k = Sigmoid(i) z = Mul(k, j) "
        "y = MatMul(z, b) }", {"a": (5, 24), "b": (12, 3)}),
    "Split of parts that are read apart": Case(
        "g (float[N,5] x) => (float[N,3] y) { h = MatMul(x, a) i, j = Split<axis=1, num_outputs=2>(h) "
        "k = MatMul(i, c) l = MatMul(j, b) y = Add(k, l) }",
        {"a": (5, 24), "c": (12, 3), "b": (12, 3)}, groups=2),
    "Slice": Case(f"g {ROWS} {{ h = MatMul(x, a) i = Slice(h, s, e, ax) j = Slice(h, e, l, ax) k = Mul(i, j) "
                  "y = MatMul(k, b) }", {"a": (5, 24), "b": (12, 3)},
                  {"s": [0], "e": [12], "l": [24], "ax": [1]}),
    "Slice from the end": Case(f"g {ROWS} {{ h = MatMul(x, a) i = Slice(h, s, e, ax) y = MatMul(i, b) }}",
                               {"a": (5, 24), "b": (12, 3)}, {"s": [-14], "e": [-2], "ax": [1]}, groups=3),
    "Slice by two": Case(f"g {ROWS} {{ h = MatMul(x, a) i = Slice(h, s, e, ax, st) y = MatMul(i, b) }}",
                         {"a": (5, 24), "b": (12, 3)}, {"s": [1], "e": [24], "ax": [1], "st": [2]}),
    "Gather": rows("z = Gather<axis=1>(h, i)", {"i": [1, 2, 3, 7, 8, 9, 10, 11, 0, 4, 5, 6]}, 3),
    "Gather of rows": Case("g (int64[N,7] x) => (float[N,7,3] y) { h = Gather(a, x) y = MatMul(h, b) }",
                           {"a": (20, 6), "b": (6, 3)}),
    "GatherND": Case("g (float[N,7,5] x) => (float[N,3] y) { h = MatMul(x, a) n = Shape<start=0, end=1>(x) "
                     "m = Concat<axis=0>(n, o) r = Expand(i, m) k = GatherND<batch_dims=1>(h, r) "
                     "y = MatMul(k, b) }",
                     {"a": (5, 12), "b": (12, 3)}, {"i": [[4]], "o": [1]}),
    "ScatterND": Case("g (float[7,5] x) => (float[7,3] y) { h = MatMul(x, a) u = Gather<axis=0>(h, j) "
                      "v = Relu(u) s = ScatterND(h, i, v) y = MatMul(s, b) }",
                      {"a": (5, 12), "b": (12, 3)}, {"i": [[4], [2]], "j": [0, 1]}),
    "TopK": Case("g (float[N,7,5] x) => (float[N,2,3] y) { h = MatMul(x, a) v, i = TopK<axis=1>(h, k) "
                 "y = MatMul(v, b) }", {"a": (5, 12), "b": (12, 3)}, {"k": [2]}),
    "Compress": Case("g (float[N,3,5] x, bool[3] c) => (float[N,M,3] y) { h = MatMul(x, a) "
                     "k = Compress<axis=1>(h, c) y = MatMul(k, b) }", {"a": (5, 12), "b": (12, 3)}),
    "ReverseSequence": Case("g (float[7,2,5] x) => (float[7,2,3] y) { h = MatMul(x, a) "
                            "k = ReverseSequence(h, l) y = MatMul(k, b) }",
                            {"a": (5, 12), "b": (12, 3)}, {"l": [4, 7]}),
    "GridSample": Case("g (float[N,3,6,6] x, float[N,4,4,2] p) => (float[N,3,4,4] y) { h = Conv(x, a) "
                       "k = GridSample(h, p) y = Conv(k, b) }",
                       {"a": (6, 3, 1, 1), "b": (3, 6, 1, 1)}),
    "RoiAlign": Case("g (float[1,3,6,6] x) => (float[2,3,2,2] y) { h = Conv(x, a) "
                     "k = RoiAlign<output_height=2, output_width=2>(h, r, i) y = Conv(k, b) }",
                     {"a": (6, 3, 1, 1), "b": (3, 6, 1, 1)}, {"i": [0, 0]},
                     floats={"r": [[0, 0, 4, 4], [1, 1, 5, 5]]}),
    "Pad": image("z = Pad(h, p)", pads=[0, 0, 1, 1, 0, 0, 1, 1]),
    "Expand": rows("e = Expand(c, s) z = Add(h, e)", {"s": [1, 12]}, c=(1, 12)),
    "Tile": Case(f"g {ROWS} {{ h = MatMul(x, a) z = Tile(h, t) y = MatMul(z, b) }}", {"a": (5, 4),
        "b": (12, 3)},
                 {"t": [1, 3]}),
    "Squeeze": rows("i = Unsqueeze(h, o) z = Squeeze(i, o)", {"o": [1]}),
    "ReduceSum": Case("g (float[N,7,5] x) => (float[N,7,1] y) { h = MatMul(x, a) y = ReduceSum(h, o) }",
                      {"a": (5, 12)}, {"o": [-1]}),
    "ReduceL2": Case("g (float[N,7,5] x) => (float[N,7,1] y) { h = MatMul(x, a) y = ReduceL2(h, o) }",
                     {"a": (5, 12)}, {"o": [2]}),
    "ReduceMax": Case("g (float[N,7,5] x) => (float[N,3] y) { h = MatMul(x, a) z = "
        "ReduceMax<keepdims=0>(h, o) "
                      "y = MatMul(z, b) }", DENSE, {"o": [1]}),
    "ReduceMean": Case("g (float[N,7,5] x) => (float[N,3] y) { h = MatMul(x, a) z = "
        "ReduceMean<keepdims=0>(h, o) "
                       "y = MatMul(z, b) }", DENSE, {"o": [1]}),
    "CumSum": Case("g (float[N,7,5] x) => (float[N,7,3] y) { h = MatMul(x, a) z = CumSum(h, o) y = "
        "MatMul(z, b) }",
                   DENSE, {"o": 1}),
    "Softmax": Case("g (float[N,7,5] x) => (float[N,7,3] y) { h = MatMul(x, a) z = Softmax<axis=1>(h) "
                    "y = MatMul(z, b) }", DENSE),
    **{name: Case(f"g (float[N,7,5] x) => (float[N,7,3] y) {{ h = MatMul(x, a) z = {name}<axis=1>(h) "
                  "y = MatMul(z, b) }", DENSE, opset=17) for name in ("LogSoftmax", "Hardmax")},
    **{name: Case(f"g (float[N,7,5] x) => (float[N,7,1] y) {{ h = MatMul(x, a) y = {name}(h, o) }}",
                  {"a": (5, 12)}, {"o": [2]}) for name in ("ReduceL1", "ReduceSumSquare")},
    **{name: Case(f"g (float[N,7,5] x) => (float[N,3] y) {{ h = MatMul(x, a) u = Abs(h) z = "
        f"{name}<keepdims=0>(u, o) "
                  "y = MatMul(z, b) }", DENSE, {"o": [1]})
       for name in ("ReduceMin", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp")},
    **{name: Case(f"g (float[N,7,5] x) => (float[N,3] y) {{ h = MatMul(x, a) i = {name}<axis=1, "
        f"keepdims=0>(h) "
                  "z = Cast<to=1>(i) y = MatMul(z, b) }", DENSE) for name in ("ArgMax", "ArgMin")},
    "Trilu": Case("g (float[N,12,5] x) => (float[N,3,5] y) { h = MatMul(a, x) u = Unsqueeze(h, o) t = "
        "Trilu(u) "
                  "z = Squeeze(t, o) y = MatMul(b, z) }", {"a": (12, 12), "b": (3, 12)}, {"o": [2]}),
    "RMSNormalization": Case(
        "g (float[N,7,5] x) => (float[N,7,3] y) { h = MatMul(x, a) t = Transpose<perm=[0,2,1]>(h) "
        "u = RMSNormalization(t, s) v = Transpose<perm=[0,2,1]>(u) y = MatMul(v, b) }",
        {**DENSE, "s": (7,)}, opset=23),
    "RotaryEmbedding": Case(
        "g (float[N,7,5] x, int64[N,7] p) => (float[N,7,3] y) { h = MatMul(x, a) z = "
            "RotaryEmbedding<num_heads=3>(h, c, s, p) "
        "y = MatMul(z, b) }", {**DENSE, "c": (7, 2), "s": (7, 2)}, opset=23),
    "com.microsoft FusedMatMul": Case(
        "g (float[N,5] x) => (float[N,3] y) { h = MatMul(x, a) z = Relu(h) "
        "y = com.microsoft.FusedMatMul<transB=1>(z, b) }", {"a": (5, 12), "b": (3, 12)}, contrib=True),
    "com.microsoft SkipLayerNormalization": Case(
        "g (float[N,7,12] x) => (float[N,7,12] y) { h = MatMul(x, a) r = Relu(h) k = MatMul(r, b) "
        "z = com.microsoft.SkipLayerNormalization(k, x, s, t) m = MatMul(z, c) n = Relu(m) y = MatMul(n, "
            "d) }",
        {"a": (12, 6), "b": (6, 12), "c": (12, 8), "d": (8, 12), "s": (12,), "t": (12,)}, groups=2,
        contrib=True),
    "LSTM": recurrent("LSTM", 4, "c"),
    "GRU": recurrent("GRU", 3),
    "RNN": recurrent("RNN", 1),
    "ConstantOfShape": Case(
        """g (float[T,N,5] x) => (float[T,N,3] y) { s = Shape<start=1, end=2>(x)
        q = Concat<axis=0>(one, s, six)  zero = ConstantOfShape(q)  r, l = GRU<hidden_size=6>(x, w, r_, ,
        , zero)
        u = Squeeze(r, one)  y = MatMul(u, b) }""",
        {"w": (1, 18, 5), "r_": (1, 18, 6), "b": (6, 3)}, {"one": [1], "six": [6]}),
    "LayerNormalization": Case(
        "g (float[N,7,5] x) => (float[N,7,3] y) { h = MatMul(x, a) t = Transpose<perm=[0,2,1]>(h) "
        "u = LayerNormalization(t, s) v = Transpose<perm=[0,2,1]>(u) y = MatMul(v, b) }",
        {**DENSE, "s": (7,)}),
    "QuantizeLinear": Case(
        f"g {IMAGE} {{ w = DequantizeLinear<axis=0>(a, s) h = Conv(x, w) q = QuantizeLinear(h, t, zp) "
        "d = DequantizeLinear(q, t, zp) y = Conv(d, b) }", {**CONVS, "s": (6,), "t": (), "zp": ()},
        {}, dtypes={"a": "i1", "zp": "i1"}),
    "tied weights": Case("g (float[N,6] x) => (float[N,6] y) { h = MatMul(x, a) r = Relu(h) y = "
        "Gemm<transB=1>(r, a) }",
                         {"a": (6, 12)}),
    "If": Case("""g (float[N,5] x, bool c) => (float[N,3] y) { h = MatMul(x, a)
        z = If(c) <then_branch = t () => (float[N,12] p) { p = Relu(h) },
                   else_branch = e () => (float[N,12] q) { q = Mul(h, k) }>  y = MatMul(z, b) }""",
               {**DENSE, "k": (12,)}),
    "Loop": Case("""g (float[N,5] x) => (float[N,3] y) { h = MatMul(x, a)
        z = Loop(three, , h) <body = l (int64 i, bool c, float[N,12] v) => (bool d, float[N,12] w) {
            d = Identity(c) u = MatMul(v, k) w = Tanh(u) }>  y = MatMul(z, b) }""",
                 {**DENSE, "k": (12, 12)}, {"three": 3}),
    "Scan": Case("""g (float[N,7,5] x) => (float[7,N,3] y) { h = MatMul(x, a)
        s, z = Scan(start, h) <num_scan_inputs=1, scan_input_axes=[1],
            body = l (float[1,12] v, float[N,12] e) => (float[1,12] w, float[N,12] o) {
            w = Mul(v, k) o = Add(w, e) }>  y = MatMul(z, b) }""",
                 {**DENSE, "k": (12,), "start": (1, 12)}),
    "heads": Case(
        """g (float[N,7,5] x) => (float[N,7,3] y) {
        q = MatMul(x, a) k = MatMul(x, c) v = MatMul(x, d)
        q1 = Reshape(q, s) k1 = Reshape(k, s) v1 = Reshape(v, s)
        q2 = Transpose<perm=[0,2,1,3]>(q1) k2 = Transpose<perm=[0,2,3,1]>(k1) v2 =
        Transpose<perm=[0,2,1,3]>(v1)
        w = MatMul(q2, k2) p = Softmax(w) o = MatMul(p, v2) t = Transpose<perm=[0,2,1,3]>(o)
        m = Reshape(t, f) y = MatMul(m, b) }""",
        {"a": (5, 12), "c": (5, 12), "d": (5, 12), "b": (12, 3)}, {"s": [0, 0, 3, 4], "f": [0, 0, 12]},
        groups=3),
    "heads behind a cut table of positions": Case(
        """g (float[N,S,5] x) => (float[N,S,3] y) <float[1,S,5] e, float[N,S,5] u> {
        n = Shape<start=0, end=1>(x) l = Shape<start=1, end=2>(x) e = Slice(c, zero, l, one) u = Add(x, e)
        q = MatMul(u, a) k = MatMul(u, d) s = Concat<axis=0>(n, l, rest, size) f = Concat<axis=0>(n, l, rest)
        q1 = Reshape(q, s) k1 = Reshape(k, s) v1 = Reshape(k, s)
        q2 = Transpose<perm=[0,2,1,3]>(q1) k2 = Transpose<perm=[0,2,3,1]>(k1)
        v2 = Transpose<perm=[0,2,1,3]>(v1)
        w = MatMul(q2, k2) p = Softmax(w) o = MatMul(p, v2) t = Transpose<perm=[0,2,1,3]>(o)
        m = Reshape(t, f) y = MatMul(m, b) }""",
        {"a": (5, 12), "d": (5, 12), "b": (12, 3), "c": (1, 9, 5)},
        {"zero": [0], "one": [1], "rest": [-1], "size": [4]}, groups=2),
    "a size that is computed": Case(
        """g (float[N,7,5] x) => (float[N,7,3] y) { h = MatMul(x, a) c = Shape<start=2>(h) d = Div(c, two)
        s = Concat<axis=0>(zero, zero, d, two, one) r = Reshape(h, s) t = Transpose<perm=[0,1,3,2,4]>(r)
        m = Reshape(t, f) y = MatMul(m, b) }""",
        {"a": (5, 12), "b": (12, 3)}, {"zero": [0], "one": [1], "two": [2], "f": [0, 0, 12]}, groups=2),
    "channels folded into the batch": Case(
        """g (float[N,7,5] x) => (float[N,7,3] y) { h = MatMul(x, a) t = Transpose<perm=[0,2,1]>(h)
        r = Reshape(t, s) p = Softmax<axis=-1>(r) q = Mul(r, p) u = Reshape(q, f)
        v = Transpose<perm=[0,2,1]>(u) y = MatMul(v, b) }""",
        {"a": (5, 12), "b": (12, 3)}, {"s": [-1, 7], "f": [-1, 12, 7]}),
    "fused heads": Case(
        """g (float[N,7,5] x) => (float[N,7,3] y) {
        h = MatMul(x, a) r = Reshape(h, s) t = Transpose<perm=[2,0,3,1,4]>(r)
        q = Gather(t, i0) k = Gather(t, i1) v = Gather(t, i2) kt = Transpose<perm=[0,1,3,2]>(k)
        w = MatMul(q, kt) p = Softmax(w) o = MatMul(p, v) u = Transpose<perm=[0,2,1,3]>(o)
        m = Reshape(u, f) y = MatMul(m, b) }""",
        {"a": (5, 36), "b": (12, 3)}, {"s": [0, 7, 3, 3, 4], "f": [0, 0, -1], "i0": 0, "i1": 1, "i2": 2},
        groups=2),
    "grouped queries": Case(
        """g (float[N,7,5] x) => (float[N,7,3] y) {
        q = MatMul(x, a) k = MatMul(x, c) v = MatMul(x, d)
        q1 = Reshape(q, s) k1 = Reshape(k, s2) v1 = Reshape(v, s2)
        q2 = Transpose<perm=[0,2,1,3]>(q1) k2 = Transpose<perm=[0,2,1,3]>(k1) v2 =
        Transpose<perm=[0,2,1,3]>(v1)
        k3 = Unsqueeze(k2, two) k4 = Expand(k3, e) k5 = Reshape(k4, g) k6 = Transpose<perm=[0,1,3,2]>(k5)
        v3 = Unsqueeze(v2, two) v4 = Expand(v3, e) v5 = Reshape(v4, g)
        w = MatMul(q2, k6) p = Softmax(w) o = MatMul(p, v5) t = Transpose<perm=[0,2,1,3]>(o)
        m = Reshape(t, f) y = MatMul(m, b) }""",
        {"a": (5, 24), "c": (5, 12), "d": (5, 12), "b": (24, 3)},
        {"s": [0, 7, 6, 4], "s2": [0, 7, 3, 4], "two": [2], "e": [1, 3, 2, 7, 4], "g": [-1, 6, 7, 4],
         "f": [0, 0, 24]}, groups=4),
    "Attention": Case(
        """g (float[N,7,5] x) => (float[N,7,3] y) { q = MatMul(x, a) k = MatMul(x, c) v = MatMul(x, d)
        o = Attention<q_num_heads=6, kv_num_heads=3>(q, k, v)  y = MatMul(o, b) }""",
        {"a": (5, 24), "c": (5, 12), "d": (5, 9), "b": (18, 3)}, groups=4, opset=23),
    "com.microsoft MultiHeadAttention": Case(
        """g (float[N,7,5] x) => (float[N,7,3] y) { q = MatMul(x, a) k = MatMul(x, c) v = MatMul(x, d)
        o = com.microsoft.MultiHeadAttention<num_heads=3>(q, k, v, e)  y = MatMul(o, b) }""",
        {"a": (5, 12), "c": (5, 12), "d": (5, 12), "b": (12, 3), "e": (36,)}, groups=3, contrib=True),
    "com.microsoft Attention": Case(
        """g (float[N,7,5] x) => (float[N,7,3] y) {
        o = com.microsoft.Attention<num_heads=3>(x, a, e)  y = MatMul(o, b) }""",
        {"a": (5, 36), "b": (12, 3), "e": (36,)}, groups=2, contrib=True),
    "computed shapes": Case(
        """g (float[N,7,5] x) => (float[N,7,3] y) { h = MatMul(x, a) s = Shape(h) n = Gather(s, i0)
        t = Gather(s, i1) n1 = Unsqueeze(n, z) t1 = Unsqueeze(t, z) f = Concat<axis=0>(n1, t1, c3, c4)
        r = Reshape(h, f) u = Relu(r) d = Gather(s, i2) half = Div(d, two) h1 = Unsqueeze(half, z)
        v = Concat<axis=0>(n1, t1, c12) m = Reshape(u, v) lo = Slice(m, z, h1, i2v) hi = Slice(m, h1,
        end, i2v)
        w = Mul(lo, hi) y = MatMul(w, b) }""",
        {"a": (5, 12), "b": (6, 3)},
        {"i0": 0, "i1": 1, "i2": 2, "z": [0], "c3": [4], "c4": [3], "c12": [12], "two": 2, "i2v": [2],
         "end": [12]}, groups=2),
    "a size that is a number elsewhere": Case(
        """g (float[N,7,5] x) => (float[N,7,3] y) { h = MatMul(x, a) s = Concat<axis=0>(o, o, c)
        r = Reshape(h, s) n = Cast<to=1>(c) z = Div(r, n) y = MatMul(z, b) }""",
        DENSE, {"o": [0], "c": [12]}),
    "shared shapes": Case(
        """g (float[N,7,5] x) => (float[N,7,3] y) { h = MatMul(x, a) r = Reshape(h, s) t = Tanh(r)
        f = Reshape(t, w) i = MatMul(f, c) j = Reshape(i, s) k = Tanh(j) l = Reshape(k, w) y = MatMul(l,
        b) }""",
        {"a": (5, 12), "c": (12, 12), "b": (12, 3)}, {"s": [0, 0, 3, 4], "w": [0, 0, 12]}, groups=4),
}  # fmt: skip
