"""Random small graphs for every fusion: of one node and of chains, in many sizes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from onnxslim.measure.costs.sketch import Sketch
from onnxslim.runtime.targets.target import Fusion, Target
from onnxslim.runtime.targets.work import convolution, product

__all__ = ["measurable", "trials"]

_MOST_MACS = 50e6  # keeps a trial below some milliseconds
_MOST_ELEMENTS = 400_000
_TRIES = 100

_CONV = Fusion("Conv", "QLinearConv", "quantized")  # the runtime fuses it whatever a target says

Draw = Callable[["_Drawing", Fusion], None]


def measurable(fusion: Fusion) -> bool:
    """Whether there are trials for a fusion."""
    return fusion.name in _DRAWINGS


def trials(target: Target, fusion: Fusion, count: int, seed: int = 0) -> Iterator[Sketch]:
    """Sketches with ``fusion`` among their nodes, the same ones for the same seed.

    Args:
        target: what the nodes around it are fused by.
        count: how many.
    """
    draw = _DRAWINGS[fusion.name]
    rng = random.Random(f"{seed} {fusion.name}")
    for number in range(count):
        for _ in range(_TRIES):
            drawing = _Drawing(target, rng, number)
            draw(drawing, fusion)
            if drawing.fits():
                yield drawing.sketch
                break


class _Drawing:
    """A sketch, and the random sizes that it is drawn with."""

    def __init__(self, target: Target, rng: random.Random, number: int) -> None:
        self.target, self.rng, self.number = target, rng, number
        self.sketch = Sketch(number)

    def fits(self) -> bool:
        """Whether it is small enough to be measured in a moment."""
        macs = sum(work.mac + work.rest for _, work in self.sketch.integer_work)
        largest = max(math.prod(shape) for shape in self.sketch.shapes.values())
        return macs <= _MOST_MACS and largest <= _MOST_ELEMENTS

    def between(self, low: int, high: int, step: int = 1) -> int:
        """A number, its logarithm evenly distributed, in multiples of ``step``."""
        drawn = math.exp(self.rng.uniform(math.log(low), math.log(high)))
        return max(step, round(drawn / step) * step)

    def image(self, channels: int = 0, *, step: int = 8) -> str:
        """An input with so many channels, by default in eights, as most networks have them."""
        side = self.between(4, 64)
        return self.sketch.input(1, channels or self.between(16, 384, step), side, side)

    def repeat(self, most: int = 3) -> range:
        return range(self.rng.randint(1, most))

    def is_chained(self) -> bool:
        """Whether this one stands between convolutions; two in three do."""
        return self.number % 3 > 0

    def conv(
        self, source: str, channels: int, kernel: int = 1, stride: int = 1, *, linear: bool = False
    ) -> str:
        """An ordinary convolution, with Relu unless it is linear."""
        fusion = self.target.fusion("Conv") or _CONV
        return self.convolve(fusion, source, channels, kernel, stride, "" if linear else "Relu")

    def convolve(
        self, fusion: Fusion, source: str, channels: int, kernel: int, stride: int, activation: str
    ) -> str:
        """Any convolution of an image."""
        batch, inputs, side, _ = self.sketch.shapes[source]
        group = inputs if fusion.depthwise else 1
        end = (side + 2 * (kernel // 2) - kernel) // stride + 1
        return self.sketch.node(
            fusion,
            [source],
            (batch, channels, end, end),
            convolution(
                batch * end * end, inputs // group, channels, kernel * kernel, block=self.target.block
            ),
            weight=(channels, inputs // group, kernel, kernel),
            bias=True,
            attributes={
                "kernel_shape": [kernel] * 2,
                "pads": [kernel // 2] * 4,
                "strides": [stride] * 2,
                "group": group,
            },
            activation=activation or None,
        )


def _conv(draw: _Drawing, fusion: Fusion) -> None:
    few = draw.rng.random() < 0.2  # the first convolution of a network
    value = draw.image(draw.rng.choice([1, 3, 4]) if few else draw.between(8, 384, 8))
    for _ in draw.repeat():
        kernel, stride = draw.rng.choice([1, 1, 3, 3, 5]), draw.rng.choice([1, 1, 2])
        channels = draw.between(8, 384, 8)
        value = draw.convolve(fusion, value, channels, kernel, stride, draw.rng.choice(["", "Relu"]))


def _depthwise(draw: _Drawing, fusion: Fusion) -> None:
    value = draw.image()
    channels = draw.sketch.shapes[value][1]
    if draw.is_chained():
        value = draw.conv(value, channels)
    for _ in draw.repeat():
        kernel, stride = draw.rng.choice([3, 3, 5]), draw.rng.choice([1, 1, 2])
        value = draw.convolve(fusion, value, channels, kernel, stride, "Relu")
    if draw.is_chained():
        draw.conv(value, draw.between(16, 384, 8))


def _add(draw: _Drawing, fusion: Fusion) -> None:
    value = draw.image()
    shape = draw.sketch.shapes[value]
    if not draw.is_chained():
        other = draw.sketch.input(*shape)
        for _ in draw.repeat():
            value = draw.sketch.node(fusion, [value, other], shape)
        return
    value = draw.conv(value, shape[1])
    for _ in draw.repeat():
        branch = draw.conv(value, shape[1], linear=True)
        activation = draw.rng.choice([None, *fusion.activations])
        value = draw.sketch.node(
            fusion, [branch, value], shape, activation=activation, free="Conv" in fusion.free_behind
        )


def _pointwise(draw: _Drawing, fusion: Fusion) -> None:
    value = draw.image()
    chained = draw.is_chained()
    for _ in draw.repeat():
        if chained:
            value = draw.conv(value, draw.sketch.shapes[value][1], linear=True)
        free = chained and "Conv" in fusion.free_behind
        value = draw.sketch.node(fusion, [value], draw.sketch.shapes[value], free=free)
    if chained:
        draw.conv(value, 16)


def _pool(draw: _Drawing, fusion: Fusion) -> None:
    value = draw.image(step=draw.target.block)
    value = draw.conv(value, draw.sketch.shapes[value][1])
    batch, channels, side, _ = draw.sketch.shapes[value]
    if fusion.op_type.startswith("Global"):
        value = draw.sketch.node(fusion, [value], (batch, channels, 1, 1))
    else:
        kernel = draw.rng.choice([2, 3])
        end = (side - kernel) // 2 + 1
        attributes = {"kernel_shape": [kernel] * 2, "strides": [2, 2]}
        value = draw.sketch.node(fusion, [value], (batch, channels, end, end), attributes=attributes)
    draw.conv(value, channels)


def _concat(draw: _Drawing, fusion: Fusion) -> None:
    value = draw.image(step=draw.target.block)
    batch, channels, side, _ = draw.sketch.shapes[value]
    if draw.is_chained():
        parts = [draw.conv(value, draw.between(16, 128, draw.target.block)) for _ in range(2)]
    else:
        parts = [value, draw.sketch.input(batch, draw.between(16, 128, draw.target.block), side, side)]
    total = sum(draw.sketch.shapes[part][1] for part in parts)
    value = draw.sketch.node(fusion, parts, (batch, total, side, side), attributes={"axis": 1})
    if draw.is_chained():
        draw.conv(value, channels)


def _gemm(draw: _Drawing, fusion: Fusion) -> None:
    rows, inner = draw.between(1, 192), draw.between(16, 1024, 8)
    columns = draw.between(16, 1024, 8 if draw.is_chained() else 1)  # some are no whole blocks
    draw.sketch.node(
        fusion,
        [draw.sketch.input(rows, inner)],
        (rows, columns),
        product(rows, inner, columns, block=draw.target.block),
        weight=(columns, inner),
        bias=True,
        attributes={"transB": 1},
    )


def _matmul(draw: _Drawing, fusion: Fusion) -> None:
    rows, inner = draw.between(1, 192), draw.between(16, 1024, 8)
    value = draw.sketch.input(1, rows, inner)
    columns = draw.between(16, 1024, 8)
    draw.sketch.node(
        fusion,
        [value],
        (1, rows, columns),
        product(rows, inner, columns, block=draw.target.block),
        weight=(inner, columns),
        channel_axis=1,
    )


def _move(draw: _Drawing, fusion: Fusion) -> None:
    value = draw.image()
    batch, channels, height, width = draw.sketch.shapes[value]
    shape: Sequence[int]
    constants, attributes = [], {}
    match fusion.op_type:
        case "Transpose":
            shape, attributes = (batch, height, width, channels), {"perm": [0, 2, 3, 1]}
        case "Flatten":
            shape = (batch, channels * height * width)
        case "Slice":
            shape = (batch, channels, height // 2, width)
            constants = [np.array([n], np.int64) for n in (0, height // 2, 2)]
        case _:
            shape = (batch, channels, height * width)
            constants = [np.array(shape, np.int64)]
    draw.sketch.node(fusion, [value], shape, constants=constants, attributes=attributes)


_DRAWINGS: dict[str, Draw] = {
    "Conv": _conv,
    "Conv, depthwise": _depthwise,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _add,
    "Sigmoid": _pointwise,
    "LeakyRelu": _pointwise,
    "MaxPool": _pool,
    "GlobalAveragePool": _pool,
    "Concat": _concat,
    "Transpose": _move,
    "Reshape": _move,
    "Flatten": _move,
    "Slice": _move,
}
