"""Random graphs whose channels can be removed: images through convolutions, tokens through attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.contract.channels import Case

__all__ = ["generated"]


class _Writer:
    """Writes a graph in the text format, keeping the shape of every value."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.lines: list[str] = []
        self.weights: dict[str, tuple[int, ...]] = {}
        self.integers: dict[str, Any] = {}
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def weight(self, *shape: int) -> str:
        name = self.name()
        self.weights[name] = shape
        return name

    def integer(self, content: Any) -> str:
        name = self.name()
        self.integers[name] = content
        return name

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = self.name()
        listed = ", ".join(f"{key}={value}" for key, value in attributes.items())
        self.lines.append(f"{name} = {op}{f'<{listed}>' if listed else ''}({', '.join(inputs)})")
        return name

    def pick(self, *choices: Any) -> Any:
        return choices[self.random.integers(len(choices))]


def generated(seed: int) -> Case:
    """A graph of some fifteen nodes; the same for the same seed."""
    writer = _Writer(seed)
    if writer.random.random() < 0.5:
        return _images(writer)
    return _tokens(writer)


def _images(w: _Writer) -> Case:
    channels = int(w.pick(4, 6, 8, 12))
    value = w.node("Conv", "x", w.weight(channels, 3, 3, 3), w.weight(channels), pads=[1, 1, 1, 1])
    pool = [(value, channels)]
    for _ in range(int(w.random.integers(3, 9))):
        value, channels = pool[w.random.integers(max(0, len(pool) - 2), len(pool))]
        step = w.pick(
            "conv", "group", "depthwise", "norm", "act", "act", "add", "concat", "split", "gate", "shuffle"
        )
        step = "act" if channels > 32 else step
        match step:
            case "conv":
                out = int(w.pick(4, 6, 8, 12))
                pool.append((w.node("Conv", value, w.weight(out, channels, 1, 1), w.weight(out)), out))
            case "group":
                groups = 2
                weight = w.weight(channels, channels // groups, 1, 1)
                pool.append((w.node("Conv", value, weight, group=groups), channels))
            case "depthwise":
                weight = w.weight(channels, 1, 3, 3)
                pool.append((w.node("Conv", value, weight, group=channels, pads=[1, 1, 1, 1]), channels))
            case "norm":
                made = w.node("InstanceNormalization", value, w.weight(channels), w.weight(channels))
                pool.append((made, channels))
            case "act":
                op = w.pick("Relu", "Sigmoid", "HardSwish", "Tanh", "PRelu")
                more = [w.weight(channels, 1, 1)] if op == "PRelu" else []
                pool.append((w.node(op, value, *more), channels))
            case "add":
                same = [other for other, size in pool if size == channels]
                pool.append((w.node(w.pick("Add", "Mul"), value, w.pick(*same)), channels))
            case "concat":
                other, size = pool[w.random.integers(len(pool))]
                pool.append((w.node("Concat", value, other, axis=1), channels + size))
            case "split":
                half = channels // 2
                bounds = [w.integer([k]) for k in (0, half, channels)]
                axis = w.integer([1])
                parts = [w.node("Slice", value, bounds[i], bounds[i + 1], axis) for i in (0, 1)]
                pool.append((w.node("Concat", *reversed(parts), axis=1), channels // 2 * 2))
            case "gate":
                inner = w.node(
                    "Relu", w.node("Conv", w.node("GlobalAveragePool", value), w.weight(4, channels, 1, 1))
                )
                gate = w.node("Sigmoid", w.node("Conv", inner, w.weight(channels, 4, 1, 1)))
                pool.append((w.node("Mul", value, gate), channels))
            case "shuffle":
                shape = w.integer([0, 2, channels // 2, 8, 8])
                back = w.integer([0, channels, 8, 8])
                five = w.node("Transpose", w.node("Reshape", value, shape), perm=[0, 2, 1, 3, 4])
                pool.append((w.node("Reshape", five, back), channels))
    value, channels = pool[-1]
    pooled = w.node("Flatten", w.node("AveragePool", value, kernel_shape=[4, 4], strides=[4, 4]))
    w.lines.append(f"y = Gemm({pooled}, {w.weight(channels * 4, 3)}, {w.weight(3)})")
    return Case(f"g (float[N,3,8,8] x) => (float[N,3] y) {{ {' '.join(w.lines)} }}", w.weights, w.integers)


def _tokens(w: _Writer) -> Case:
    width = 8
    value = w.node("MatMul", "x", w.weight(5, width))
    for _ in range(int(w.random.integers(1, 4))):
        normed = w.node("LayerNormalization", value, w.weight(width)) if w.random.random() < 0.3 else value
        match w.pick("feed", "gated", "attend", "attend"):
            case "feed":
                wide = w.node("Add", w.node("MatMul", normed, w.weight(width, 12)), w.weight(12))
                inner = w.node(w.pick("Relu", "Tanh"), wide)
                made = w.node("MatMul", inner, w.weight(12, width))
            case "gated":
                both = w.node("MatMul", normed, w.weight(width, 24))
                first, second = w.name(), w.name()
                sizes = w.integer([12, 12])
                w.lines.append(f"{first}, {second} = Split<axis=2>({both}, {sizes})")
                product = w.node("Mul", w.node("Sigmoid", first), second)
                made = w.node("MatMul", product, w.weight(12, width))
            case _:
                made = _attention(w, normed, width)
        value = w.node("Add", value, made)
    w.lines.append(f"y = MatMul({value}, {w.weight(width, 3)})")
    return Case(f"g (float[N,7,5] x) => (float[N,7,3] y) {{ {' '.join(w.lines)} }}", w.weights, w.integers)


def _attention(w: _Writer, value: str, width: int) -> str:
    heads, size = 3, 4
    if w.random.random() < 0.5:
        fused = w.node("Add", w.node("MatMul", value, w.weight(width, 36)), w.weight(36))
        shape = w.integer([0, 7, 3, heads, size])
        turned = w.node("Transpose", w.node("Reshape", fused, shape), perm=[2, 0, 3, 1, 4])
        query, key, content = (w.node("Gather", turned, w.integer(k)) for k in range(3))
    else:
        shape = w.integer([0, 0, heads, size])
        query, key, content = (
            w.node(
                "Transpose",
                w.node("Reshape", w.node("MatMul", value, w.weight(width, 12)), shape),
                perm=[0, 2, 1, 3],
            )
            for _ in range(3)
        )
    if w.random.random() < 0.5:  # halves are exchanged, as a rotation does
        low, middle, high, axis = (w.integer([k]) for k in (0, 2, 4, 3))
        halves = [w.node("Slice", query, a, b, axis) for a, b in ((low, middle), (middle, high))]
        query = w.node("Add", query, w.node("Concat", w.node("Neg", halves[1]), halves[0], axis=3))
    scores = w.node("MatMul", query, w.node("Transpose", key, perm=[0, 1, 3, 2]))
    mixed = w.node("MatMul", w.node("Softmax", scores), content)
    flat = w.node("Reshape", w.node("Transpose", mixed, perm=[0, 2, 1, 3]), w.integer([0, 0, heads * size]))
    return w.node("MatMul", flat, w.weight(heads * size, width))
