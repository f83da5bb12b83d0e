"""Nodes whose gradients are judged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.gradients import Case
from tests.ops.gradient_oracles import counting, gelu, grouped, pooled, spread, standardised

__all__ = ["CASES", "between", "f"]

Array = npt.NDArray[Any]
_RANDOM = np.random.default_rng(7)


def f(*shape: int) -> npt.NDArray[np.float32]:
    return _RANDOM.normal(size=shape).astype(np.float32)


def between(low: float, high: float, *shape: int) -> npt.NDArray[np.float32]:
    return _RANDOM.uniform(low, high, shape).astype(np.float32)


def apart(*shape: int) -> npt.NDArray[np.float32]:
    """Distinct numbers of both signs, none near another or near a kink at a whole multiple of 1/2."""
    count = int(np.prod(shape))
    numbers = (np.arange(count) - count // 2) * 0.13 + 0.031
    return _RANDOM.permutation(numbers).reshape(shape).astype(np.float32)


def i(*numbers: Any) -> npt.NDArray[np.int64]:
    return np.array(numbers, np.int64)


def _arithmetic() -> Iterator[Case]:
    for name in ("Add", "Sub", "Mul", "Max", "Min", "Sum"):
        yield Case(name, [apart(2, 3), f(2, 1)])
        yield Case(name, [f(3), apart(4, 1, 3)])
        yield Case(name, [f(2, 3), f(2, 3)])
    for name in ("Sum", "Mean", "Max", "Min"):
        yield Case(name, [f(2, 3), f(3), f(1, 1)])
    yield Case("Mean", [f(3), f(4, 1, 3)], oracle=lambda a, b: (a + b) / 2)
    yield Case("Div", [f(2, 3), between(0.5, 2, 3)])
    yield Case("Div", [f(3), between(-2, -0.5, 2, 1)])
    yield Case("Pow", [between(0.5, 2, 2, 3), f(3)])
    yield Case("Pow", [f(2, 3), np.array(2, np.float32)], wrt=[0], constants=[1])
    yield Case("Pow", [f(2, 3), i(3)], wrt=[0])
    yield Case("Mod", [between(0.1, 0.9, 2, 3) + f(1) * 0, between(0.3, 0.4, 3) * 10], {"fmod": 1})
    for name in ("Neg", "Abs", "Exp", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Asinh"):
        yield Case(name, [apart(2, 3)])
    for name in ("Sqrt", "Log", "Reciprocal"):
        yield Case(name, [between(0.5, 2, 2, 3)])
    for name in ("Asin", "Acos", "Atanh"):
        yield Case(name, [between(-0.7, 0.7, 2, 3)])
    yield Case("Acosh", [between(1.5, 3, 2, 3)])
    yield Case("Erf", [apart(2, 3)], oracle=np.vectorize(math.erf))
    yield Case("Clip", [apart(4, 5), np.array(-0.5, np.float32), np.array(0.5, np.float32)])
    yield Case("Clip", [apart(4, 5), None, np.array(0.5, np.float32)])
    yield Case("Clip", [apart(4, 5), np.array(-0.5, np.float32)])
    condition = np.array([[True], [False]])
    yield Case("Where", [condition, f(3), f(2, 3)])
    yield Case("Where", [np.array([True, False, True]), f(2, 1), f(1)])


def _activations() -> Iterator[Case]:
    for name in ("Relu", "Sigmoid", "Tanh", "HardSwish", "Softplus", "Softsign", "Mish"):
        yield Case(name, [apart(5, 7)])
    for name, attributes in {
        "LeakyRelu": {"alpha": 0.2},
        "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
        "Elu": {"alpha": 0.7},
        "Selu": {"alpha": 1.5, "gamma": 1.1},
        "Celu": {"alpha": 0.8},
        "ThresholdedRelu": {"alpha": 0.5},
        "Shrink": {"lambd": 0.4, "bias": 0.4},
        "Softmax": {"axis": 1},
        "LogSoftmax": {"axis": 0},
    }.items():
        yield Case(name, [apart(3, 4, 2)])
        yield Case(name, [apart(3, 4, 2)], attributes)
    yield Case("Gelu", [apart(5, 7)], opset=20, oracle=gelu)
    yield Case("Gelu", [apart(5, 7)], {"approximate": "tanh"}, opset=20)
    yield Case("Swish", [apart(5, 7)], opset=24)
    yield Case("Swish", [apart(5, 7)], {"alpha": 1.7}, opset=24)
    yield Case("PRelu", [apart(2, 3, 4), f(3, 1)])
    yield Case("PRelu", [apart(2, 3, 4), f(1)])
    yield Case("Dropout", [f(2, 3)])


def _products() -> Iterator[Case]:
    for a, b in [
        ((3, 4), (4, 2)), ((2, 3, 4), (4, 2)), ((2, 3, 4), (2, 4, 5)), ((5, 1, 3, 4), (2, 4, 2)),
        ((3, 4), (2, 4, 5)), ((4,), (4,)), ((4,), (2, 4, 3)), ((2, 3, 4), (4,)), ((3, 4), (4,)),
        ((4,), (4, 3)),
    ]:  # fmt: skip
        yield Case("MatMul", [f(*a), f(*b)])
    for trans_a in (0, 1):
        for trans_b in (0, 1):
            a, b = f(*(4, 3) if trans_a else (3, 4)), f(*(2, 4) if trans_b else (4, 2))
            yield Case(
                "Gemm", [a, b, f(2)], {"transA": trans_a, "transB": trans_b, "alpha": 0.5, "beta": 2.0}
            )
    yield Case("Gemm", [f(3, 4), f(4, 2), f(3, 1)])
    yield Case("Gemm", [f(3, 4), f(4, 2)])
    for equation, shapes in {
        "ij,jk->ik": [(2, 3), (3, 4)],
        "bhqd,bhkd->bhqk": [(2, 2, 3, 4), (2, 2, 5, 4)],
        "...ij,jk->...ik": [(2, 2, 3), (3, 4)],
        "ij->i": [(2, 3)],
        "ij,ij": [(2, 3), (2, 3)],
        "ij->ji": [(2, 3)],
        "ij,jk,kl->il": [(2, 3), (3, 2), (2, 2)],
    }.items():
        yield Case("Einsum", [f(*shape) for shape in shapes], {"equation": equation})


def _convolutions() -> Iterator[Case]:
    yield Case("Conv", [f(2, 4, 7, 6), f(6, 4, 3, 2), f(6)],
               {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]})  # fmt: skip
    yield Case(
        "Conv", [f(2, 4, 8, 7), f(6, 2, 3, 2)], {"strides": [3, 2], "auto_pad": "SAME_UPPER", "group": 2}
    )
    yield Case(
        "Conv", [f(2, 4, 8, 8), f(4, 1, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_LOWER", "group": 4}
    )
    yield Case("Conv", [f(2, 4, 5, 5), f(8, 1, 3, 3), f(8)], {"pads": [1, 1, 1, 1], "group": 4})
    yield Case("Conv", [f(2, 4, 5, 5), f(3, 4, 1, 1), f(3)])
    yield Case("Conv", [f(2, 4, 5, 6), f(3, 4, 1, 1)], {"strides": [2, 2]})
    yield Case("Conv", [f(2, 4, 5, 6), f(3, 4, 1, 1)], {"pads": [1, 0, 2, 1]})
    yield Case("Conv", [f(1, 3, 9), f(2, 3, 3)], {"pads": [4, 0], "dilations": [2]})  # causal
    yield Case(
        "Conv",
        [f(2, 2, 4, 5, 4), f(4, 1, 2, 3, 2)],
        {"group": 2, "strides": [2, 1, 2], "pads": [0, 1, 1, 1, 1, 0]},
    )
    yield Case("Conv", [f(1, 2, 9, 9), f(2, 2, 3, 3)], {"strides": [4, 5]})  # a stride beyond the kernel
    yield Case(
        "ConvTranspose", [f(2, 4, 3, 4), f(4, 3, 3, 2), f(3)], {"strides": [2, 1], "pads": [1, 0, 0, 1]}
    )
    yield Case("ConvTranspose", [f(2, 4, 3, 4), f(4, 2, 3, 3)],
               {"strides": [2, 3], "group": 2, "output_padding": [1, 2], "dilations": [2, 1]},
               oracle=spread((2, 3), (0, 0), (10, 14), (2, 1), 2))  # fmt: skip
    yield Case("ConvTranspose", [f(1, 4, 3), f(4, 1, 3)], {"strides": [2], "group": 4})
    yield Case(
        "ConvTranspose",
        [f(1, 2, 3, 3), f(2, 2, 3, 2)],
        {"strides": [2, 2], "output_shape": [6, 5]},
        oracle=spread((2, 2), (1, 1), (6, 5)),
    )


def _movements() -> Iterator[Case]:
    yield Case("Identity", [f(2, 3)])
    yield Case("Reshape", [f(2, 6), i(3, -1)])
    yield Case("Flatten", [f(2, 3, 2)], {"axis": 2})
    yield Case("Squeeze", [f(2, 1, 3), i(1)], constants=[1])
    yield Case("Unsqueeze", [f(2, 3), i(0, 3)], constants=[1])
    yield Case("Transpose", [f(2, 3, 4)], {"perm": [1, 2, 0]})
    yield Case("Transpose", [f(2, 3)])
    yield Case("Expand", [f(3, 1), i(2, 1, 4)])
    yield Case("Tile", [f(2, 3), i(2, 3)])
    yield Case("Concat", [f(2, 3), f(2, 1), f(2, 2)], {"axis": -1})
    yield Case("Split", [f(2, 6), i(1, 3, 2)], {"axis": 1}, outputs=3, reads=(0, 2), constants=[1])
    yield Case("Split", [f(5, 2)], {"num_outputs": 2}, outputs=2, reads=(0, 1))
    for starts, ends, axes, steps in [
        (i(1), i(3), i(0), i(1)), (i(0, 1), i(5, 4), i(1, 0), i(2, 1)), (i(-1), i(-9), i(1), i(-2)),
        (i(3), i(0), i(0), i(-1)), (i(0), i(1 << 40), i(1), i(3)),
    ]:  # fmt: skip
        yield Case("Slice", [f(4, 5), starts, ends, axes, steps], constants=[1, 2, 3, 4])
    yield Case("Gather", [f(4, 3), i(2, 0, 2, -1)])
    yield Case("Gather", [f(4, 3), i(2, 0, 2, -1)], constants=[1])
    yield Case("Gather", [f(4, 3), i(2, 0, 2, -1).astype(np.int32)])
    yield Case("Gather", [f(4, 3), i(2, 0)], {"axis": 1}, constants=[1])
    yield Case("Gather", [f(4, 3, 2), np.array(-2)], {"axis": 1}, constants=[1])
    yield Case("Gather", [f(2, 4, 3), i([1, 1, 3], [0, 2, 1])], {"axis": 1})
    yield Case("GatherElements", [f(3, 4), i([0, 1, 0, 2], [2, 2, -1, 0])], {"axis": 0})
    yield Case("GatherElements", [f(3, 4), i([0, 1, 0, 2], [2, 2, -1, 0]).astype(np.int32)], {"axis": 0})
    yield Case("GatherND", [f(3, 4, 2), i([0, 1], [2, 3], [0, 1])])
    for reduction in ("none", "add"):
        yield Case("ScatterElements", [f(3, 4), i([0, 2]), f(1, 2)], {"axis": 1, "reduction": reduction})
        yield Case("ScatterND", [f(3, 4), i([0], [2]), f(2, 4)], {"reduction": reduction})
    yield Case("Pad", [f(3, 4), i(1, 0, 2, 1), np.array(0.5, np.float32)], constants=[1])
    yield Case(
        "Pad",
        [f(3, 4), i(1, -1, -1, 1)],
        constants=[1],
        oracle=lambda x, pads: np.pad(x[:2, 1:], [(1, 0), (0, 1)]),
    )
    yield Case("Pad", [f(3, 4), i(2, 1, 1, 3)], {"mode": "reflect"}, constants=[1])
    yield Case("Pad", [f(3, 4), i(2, 1, 1, 6)], {"mode": "edge"}, constants=[1])
    yield Case("Pad", [f(2, 3, 4), i(2, 3), None, i(-1)], {"mode": "edge"}, constants=[1, 3])
    yield Case("Pad", [f(3, 4), i(0, 2, 0, 1)], {"mode": "wrap"}, constants=[1], opset=19)
    yield Case("TopK", [apart(3, 5), i(2)], {"axis": 1}, outputs=2)
    yield Case("DepthToSpace", [f(2, 8, 2, 3)], {"blocksize": 2})
    yield Case("DepthToSpace", [f(2, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"})
    yield Case("SpaceToDepth", [f(2, 2, 4, 6)], {"blocksize": 2})
    yield Case("Trilu", [f(2, 3, 4), np.array(1)], {"upper": 0})
    yield Case("Trilu", [f(3, 3)])
    yield Case("Cast", [f(2, 3)], {"to": 1})
    yield Case("CastLike", [f(2, 3), f(1)], wrt=[0])


def _reductions() -> Iterator[Case]:
    names = ("Sum", "Mean", "Max", "Min", "L1", "L2", "LogSumExp", "SumSquare", "Prod")
    for name in names:
        yield Case(f"Reduce{name}", [apart(2, 3, 4), i(0, -1)], constants=[1])
        yield Case(f"Reduce{name}", [apart(2, 3, 4)], {"keepdims": 0})
        yield Case(f"Reduce{name}", [apart(2, 3, 4), i(1)], {"keepdims": 0}, constants=[1])
        yield Case(f"Reduce{name}", [apart(2, 3)], {"noop_with_empty_axes": 1})
    yield Case("ReduceLogSum", [between(0.5, 2, 2, 3), i(1)], constants=[1])
    zeros = f(3, 3)
    zeros[0, 1] = zeros[1, 0] = zeros[1, 2] = 0
    yield Case("ReduceProd", [zeros, i(1)], constants=[1])
    for exclusive in (0, 1):
        for reverse in (0, 1):
            yield Case("CumSum", [f(3, 4), np.array(1)], {"exclusive": exclusive, "reverse": reverse})


def _normalizations() -> Iterator[Case]:
    statistics = [f(3), f(3), f(3), between(0.5, 2, 3)]
    yield Case("BatchNormalization", [f(2, 3, 4, 2), *statistics], {"epsilon": 1e-3})
    yield Case("BatchNormalization", [f(5, 3), *statistics])
    yield Case("LayerNormalization", [f(2, 3, 4), f(4), f(4)])
    yield Case("LayerNormalization", [f(2, 3, 4), f(3, 4)], {"axis": 1, "epsilon": 1e-2})
    yield Case("RMSNormalization", [f(2, 3, 4), f(4)], opset=23)
    yield Case("RMSNormalization", [f(2, 3, 4), f(3, 4)], {"axis": -2}, opset=23)
    yield Case("InstanceNormalization", [f(2, 3, 4, 2), f(3), f(3)])
    yield Case(
        "GroupNormalization",
        [f(2, 4, 3, 2), f(4), f(4)],
        {"num_groups": 2},
        opset=21,
        oracle=grouped(1e-5, 2),
    )
    yield Case("LRN", [f(2, 5, 2, 2)], {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 1.5}, expanded=True)
    yield Case("LRN", [f(1, 6, 1, 3)], {"size": 5, "alpha": 2.0}, expanded=True)
    yield Case("LpNormalization", [f(3, 4)], {"axis": 0})
    yield Case("MeanVarianceNormalization", [f(2, 3, 2, 2)], {"axes": [0, 2, 3]}, oracle=standardised)
    yield Case("LpNormalization", [f(3, 4)], {"p": 1}, oracle=lambda x: x / np.abs(x).sum(-1, keepdims=True))


def _pools() -> Iterator[Case]:
    for name in ("MaxPool", "AveragePool"):
        for attributes in [
            {"kernel_shape": [2, 2], "strides": [2, 2]},
            {"kernel_shape": [3, 2], "strides": [1, 2], "pads": [1, 0, 2, 1]},
            {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
            {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        ]:
            yield Case(name, [apart(2, 2, 6, 7)], attributes)
    yield Case(
        "AveragePool", [f(2, 2, 6, 7)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    )
    yield Case(
        "MaxPool",
        [apart(2, 2, 6, 7)],
        {"kernel_shape": [2, 2], "strides": [1, 3], "auto_pad": "SAME_LOWER"},
        oracle=pooled((2, 2), (1, 3), (1, 1)),
    )
    counted = {"ceil_mode": 1, "count_include_pad": 1, "pads": [1, 0, 0, 1]}
    yield Case(
        "AveragePool",
        [f(1, 1, 6, 6)],
        {"kernel_shape": [3, 3], "strides": [2, 2], **counted},
        oracle=counting,
    )
    yield Case("MaxPool", [apart(1, 2, 7, 7)], {"kernel_shape": [2, 3], "dilations": [2, 2]})
    yield Case("AveragePool", [f(1, 2, 7, 7)], {"kernel_shape": [2, 3], "dilations": [2, 2]}, opset=19)
    yield Case("AveragePool", [f(1, 2, 9)], {"kernel_shape": [4], "strides": [3], "pads": [1, 2]})
    yield Case("LpPool", [f(1, 2, 6, 5)], {"kernel_shape": [2, 2], "strides": [2, 1], "p": 3})
    yield Case(
        "GlobalLpPool", [f(2, 3, 4, 2)], {"p": 2}, oracle=lambda x: (x**2).sum((2, 3), keepdims=True) ** 0.5
    )
    for name in ("GlobalAveragePool", "GlobalMaxPool"):
        yield Case(name, [apart(2, 3, 4, 2)])


def _images() -> Iterator[Case]:
    up = np.array([1, 1, 2, 3], np.float32)
    odd = np.array([1, 1, 1.5, 0.6], np.float32)
    for mode in ("nearest", "linear", "cubic"):
        for scales in (up, odd):
            yield Case("Resize", [f(1, 2, 4, 5), None, scales], {"mode": mode}, wrt=[0], constants=[2])
        for coordinates in ("asymmetric", "align_corners", "pytorch_half_pixel"):
            yield Case("Resize", [f(1, 2, 4, 5), None, None, i(1, 2, 7, 3)], wrt=[0], constants=[3],
                       attributes={"mode": mode, "coordinate_transformation_mode": coordinates})  # fmt: skip


def _recurrent_layers() -> Iterator[Case]:
    lengths = np.array([4, 2], np.int32)
    for name, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
        outputs = 3 if name == "LSTM" else 2
        for directions, direction in ((1, "forward"), (1, "reverse"), (2, "bidirectional")):
            inputs = [f(4, 2, 3), *(0.5 * f(directions, gates * 2, size) for size in (3, 2))]
            bias, state = f(directions, 2 * gates * 2), f(directions, 2, 2)
            plain = {"hidden_size": 2, "direction": direction}
            every = tuple(range(outputs))
            yield Case(name, inputs, plain, outputs=outputs, reads=every, expanded=True)
            full = [*inputs, bias, lengths, state]
            full += [f(directions, 2, 2), f(directions, 6)] if name == "LSTM" else []
            yield Case(name, full, plain, outputs=outputs, reads=every, expanded=True)
            if name == "GRU":
                for ends in (full, inputs):
                    attributes = {**plain, "linear_before_reset": 1}
                    yield Case(name, ends, attributes, outputs=2, reads=(0,), expanded=True)
    attributes = {"hidden_size": 2, "activations": ["Relu", "Softsign", "Tanh"]}
    yield Case("LSTM", [f(3, 1, 2), f(1, 8, 2), f(1, 8, 2)], attributes, outputs=3, expanded=True)


def _attention() -> Iterator[Case]:
    q, k, v = f(2, 2, 3, 4), f(2, 2, 5, 4), f(2, 2, 5, 3)
    yield Case("Attention", [q, k, v], opset=23, expanded=True)
    yield Case("Attention", [q, k, v, f(3, 5)], {"softcap": 2.0}, opset=23, expanded=True)
    packed = [f(2, 3, 8), f(2, 3, 4), f(2, 3, 4)]
    heads = {"q_num_heads": 4, "kv_num_heads": 2, "is_causal": 1}
    yield Case("Attention", packed, heads, opset=23, expanded=True)
    yield Case("RotaryEmbedding", [f(1, 2, 3, 4), f(6, 2), f(6, 2), i([2, 0, 5])], opset=23, expanded=True)


def _contrib() -> Iterator[Case]:
    own = {"domain": "com.microsoft", "expanded": True}
    yield Case("Gelu", [f(2, 3, 4)], domain="com.microsoft", oracle=gelu)
    yield Case("BiasGelu", [f(2, 3, 4), f(4)], domain="com.microsoft", oracle=gelu)
    yield Case("QuickGelu", [f(2, 3, 4)], **own)
    yield Case("FastGelu", [f(2, 3, 4)], **own)
    yield Case("FastGelu", [f(2, 3, 4), f(4)], **own)
    yield Case("FusedMatMul", [f(2, 4, 3), f(2, 5, 4)], {"transA": 1, "transB": 1, "alpha": 0.5}, **own)
    every: dict[str, Any] = {**own, "outputs": 4, "reads": (0, 3)}
    yield Case("SkipLayerNormalization", [f(2, 3, 4), f(2, 3, 4), f(4), f(4), f(4)], **every)
    yield Case("SkipSimplifiedLayerNormalization", [f(2, 3, 4), f(2, 3, 4), f(4), f(4)], **every)


CASES = [
    *_arithmetic(), *_activations(), *_products(), *_convolutions(), *_movements(), *_reductions(),
    *_normalizations(), *_pools(), *_images(), *_recurrent_layers(), *_attention(), *_contrib(),
]  # fmt: skip
