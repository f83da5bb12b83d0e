"""Gradients of convolutions of any rank, grouping, stride, dilation and padding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Tape, Vjp
from onnxslim.ops.attributes import int_of, ints_of, text_of
from onnxslim.ops.terms import Term, joined

__all__ = ["RULES", "Window", "window_of"]

_END = -(1 << 31)  # before the first position, for what runs backwards
_CACHED = 1 << 18  # floats of a gathered input that are near enough to be added up in place
_WIDE = 16  # channels from which a product of its own for each element of the kernel pays
_NARROW = 24  # positions in a row below which copies of rows cost more than a change of layout


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window: output p and kernel element k meet at input ``p * stride + k * dilation - begin``.

    Attributes:
        inputs, outputs: numbers of positions along each axis.
        begins, ends: padding in front and behind.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def rest(self) -> tuple[int, ...]:
        """Positions behind those that the last window reads."""
        return tuple(
            size + begin + end - dilation * (kernel - 1) - 1 - stride * (count - 1)
            for size, begin, end, dilation, kernel, stride, count in zip(
                self.inputs,
                self.begins,
                self.ends,
                self.dilations,
                self.kernel,
                self.strides,
                self.outputs,
                strict=True,
            )
        )


def window_of(
    node: ir.Node, kernel: tuple[int, ...], inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> Window:
    """The window of a node, with the padding that ``auto_pad`` stands for.

    Spec: https://onnx.ai/onnx/operators/onnx__Conv.html
    """
    rank = len(kernel)
    strides = tuple(ints_of(node, "strides") or (1,) * rank)
    dilations = tuple(ints_of(node, "dilations") or (1,) * rank)
    pads = tuple(ints_of(node, "pads") or (0,) * (2 * rank))
    auto = text_of(node, "auto_pad", "NOTSET")
    begins, ends = pads[:rank], pads[rank:]
    if auto == "VALID":
        begins = ends = (0,) * rank
    elif auto.startswith("SAME"):
        needed = [
            max(stride * (count - 1) + dilation * (size - 1) + 1 - given, 0)
            for stride, count, dilation, size, given in zip(
                strides, outputs, dilations, kernel, inputs, strict=True
            )
        ]
        less = [total // 2 for total in needed]
        more = [total - half for total, half in zip(needed, less, strict=True)]
        begins, ends = (tuple(less), tuple(more)) if auto == "SAME_UPPER" else (tuple(more), tuple(less))
    return Window(kernel, strides, dilations, begins, ends, inputs, outputs)


def _conv(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    x, weight, dy = tape.x(0), tape.x(1), tape.dy()
    groups, found = int_of(node, "group", 1), {}
    window = window_of(node, tape.sizes(weight, 2), tape.sizes(x, 2), tape.sizes(tape.y(), 2))
    if tape.wants(0):
        found[0] = _spread(tape, window, dy, weight, groups)
    if tape.wants(1):
        found[1] = _weight(window, x, dy, groups, tape.sizes(weight))
    if tape.wants(2):
        found[2] = dy.sum([0, *range(2, len(window.kernel) + 2)])
    return found


def _spread(tape: Tape, window: Window, dy: Term, weight: Term, groups: int) -> Term:
    """Every output's gradient, added to the inputs that it was computed from."""
    read = tape.sizes(weight)[1]
    plain = groups == 1 and max(window.strides) == 1
    gathered = math.prod(window.kernel) * read * math.prod(window.outputs)
    if plain and (gathered > _CACHED or math.prod(window.kernel) == 1):
        return _convolved_back(window, dy, weight)
    return dy.then(
        "ConvTranspose",
        weight,
        strides=window.strides,
        dilations=window.dilations,
        pads=[*window.begins, *window.ends],
        output_padding=window.rest,
        group=groups,
    )


def _convolved_back(window: Window, dy: Term, weight: Term) -> Term:
    """Without strides that is a convolution with the kernel turned round."""
    axes = range(len(window.kernel))
    reach = [dilation * (size - 1) for dilation, size in zip(window.dilations, window.kernel, strict=True)]
    pads = [
        span - pad for pads in (window.begins, window.ends) for span, pad in zip(reach, pads, strict=True)
    ]
    if min(pads) < 0:  # more padding than the kernel reaches: nothing comes back from there
        begins = [max(-pad, 0) for pad in pads[: len(reach)]]
        ends = [size - max(-pad, 0) for size, pad in zip(window.outputs, pads[len(reach) :], strict=True)]
        dy = dy.slice(begins, ends, [axis + 2 for axis in axes])
    if any(reach):
        turned = [_END] * len(reach)
        weight = weight.slice([-1] * len(reach), turned, [axis + 2 for axis in axes], [-1] * len(reach))
    weight = weight.transpose([1, 0, *(axis + 2 for axis in axes)])
    return dy.then("Conv", weight, dilations=window.dilations, pads=[max(pad, 0) for pad in pads])


def _weight(window: Window, x: Term, dy: Term, groups: int, sizes: tuple[int, ...]) -> Term:
    """For each element of the kernel, the products of what it meets with what comes of it, summed up.

    The products of all positions and samples are one product of matrices.  Positions come first where that
    makes what is cut out long pieces of memory.
    """
    made, read = sizes[0] // groups, sizes[1]
    rank = len(window.kernel)
    narrow = window.outputs[-1] < _NARROW or (window.strides[-1] > 1 and read >= _WIDE)
    front = [*range(2, rank + 2), 0, 1]
    if made == read == 1:
        return _depthwise(window, x, dy, narrow).reshape(sizes)
    plain = groups == 1 and window.inputs == window.outputs and math.prod(window.kernel) == 1
    if plain and made * read < (made + read) * math.prod(window.outputs):
        # adding up a product for each sample is less work than turning the inputs
        columns = x.reshape([0, read, -1]).transpose([0, 2, 1])
        return dy.reshape([0, made, -1]).then("MatMul", columns).sum([0]).reshape(sizes)
    if groups > 1:
        products = _grouped(window, x, dy, groups, made, read)
    elif narrow:
        rows = dy.transpose(front).reshape([-1, made])
        met = [part.reshape([-1, read]) for part in _met(window, x.transpose(front), 0, 2)]
        products = [rows.then("Gemm", part, transA=1) for part in _gathered(met, read, 1)]
    else:
        rows = dy.transpose([1, 0, *range(2, rank + 2)]).reshape([made, -1])
        image = x.transpose([1, 0, *range(2, rank + 2)])
        met = [part.reshape([read, -1]) for part in _met(window, image, 2, 0)]
        products = [rows.then("Gemm", part, transB=1) for part in _gathered(met, read, 0)]
    if len(products) == 1:
        return products[0].reshape([sizes[0], -1, read]).transpose([0, 2, 1]).reshape(sizes)
    return joined([each.reshape([sizes[0], read, 1]) for each in products], 2).reshape(sizes)


def _depthwise(window: Window, x: Term, dy: Term, narrow: bool) -> Term:
    """Every channel by itself: sums of products of positions."""
    rank, rows = len(window.kernel), x.dims[0] if x.dims else None
    if not narrow:
        sums = [(part * dy).sum([0, *range(2, rank + 2)]) for part in _met(window, x, 2, 0)]
        return joined([each.unsqueeze([1]) for each in sums], 1)
    front = [*range(2, rank + 2), 0, 1]
    x, dy = x.transpose(front), dy.transpose(front)
    products = [part * dy for part in _met(window, x, 0, 2)]
    if not isinstance(rows, int):
        return joined([each.sum(range(rank + 1)).unsqueeze([1]) for each in products], 1)
    # a product with ones is a sum, several times as fast
    count = rows * math.prod(window.outputs)
    ones = x.constant(np.ones((1, count), x.dtype.numpy()))
    flat = [each.reshape([count, -1]) for each in products]
    return joined([ones.then("MatMul", each) for each in flat], 0).transpose([1, 0])


def _grouped(window: Window, x: Term, dy: Term, groups: int, made: int, read: int) -> list[Term]:
    """The products of each group, ``[G, O, N P] [G, N P, I]``."""
    order = [1, 2, 0, *range(3, len(window.kernel) + 3)]
    rows = dy.reshape([0, groups, made, *window.outputs]).transpose(order).reshape([groups, made, -1])
    image = x.reshape([0, groups, read, *window.inputs]).transpose(order)
    met = [part.reshape([groups, read, -1]) for part in _met(window, image, 3, 0)]
    return [rows.then("MatMul", part.transpose([0, 2, 1])) for part in _gathered(met, read, 1)]


def _gathered(met: list[Term], read: int, axis: int) -> list[Term]:
    """Few channels are multiplied together for all elements of the kernel."""
    return met if read >= _WIDE else [joined(met, axis)]


def _met(window: Window, image: Term, before: int, behind: int) -> Iterator[Term]:
    """For each element of the kernel, the input that it meets at every output.

    Args:
        before, behind: other axes of the image, around those of positions.
    """
    axes = [axis + before for axis in range(len(window.kernel))]
    needed = [max(end - rest, 0) for end, rest in zip(window.ends, window.rest, strict=True)]
    first, last = [0] * before, [0] * behind
    padded = image.pad([*first, *window.begins, *last, *first, *needed, *last])
    for element in itertools.product(*map(range, window.kernel)):
        starts = [k * dilation for k, dilation in zip(element, window.dilations, strict=True)]
        ends = [
            start + stride * (count - 1) + 1
            for start, stride, count in zip(starts, window.strides, window.outputs, strict=True)
        ]
        whole = tuple(ends) == window.inputs and not any((*starts, *window.begins, *needed))
        if whole and max(window.strides) == 1:
            yield padded
        else:
            yield padded.slice(starts, ends, axes, window.strides)


def _conv_transpose(node: ir.Node, tape: Tape) -> Mapping[int, Term]:
    """The transposed of a convolution is that convolution: input and output exchange their parts."""
    x, weight, dy = tape.x(0), tape.x(1), tape.dy()
    groups, found = int_of(node, "group", 1), {}
    window = _transposed_window(node, tape, weight, x)
    if tape.wants(0):
        found[0] = dy.then(
            "Conv",
            weight,
            strides=window.strides,
            dilations=window.dilations,
            pads=[*window.begins, *window.ends],
            group=groups,
        )
        if any(rest >= stride for rest, stride in zip(window.rest, window.strides, strict=True)):
            axes = range(len(window.kernel))
            found[0] = found[0].slice([0 for _ in axes], window.outputs, [axis + 2 for axis in axes])
    if tape.wants(1):
        found[1] = _weight(window, dy, x, groups, tape.sizes(weight))
    if tape.wants(2):
        found[2] = dy.sum([0, *range(2, len(window.kernel) + 2)])
    return found


def _transposed_window(node: ir.Node, tape: Tape, weight: Term, x: Term) -> Window:
    """The window of the convolution that a ConvTranspose is the transposed of.

    Spec: https://onnx.ai/onnx/operators/onnx__ConvTranspose.html
    """
    kernel, small, large = tape.sizes(weight, 2), tape.sizes(x, 2), tape.sizes(tape.y(), 2)
    rank = len(kernel)
    strides = tuple(ints_of(node, "strides") or (1,) * rank)
    dilations = tuple(ints_of(node, "dilations") or (1,) * rank)
    extra = tuple(ints_of(node, "output_padding") or (0,) * rank)
    pads = tuple(ints_of(node, "pads") or (0,) * (2 * rank))
    auto = text_of(node, "auto_pad", "NOTSET")
    begins = list(pads[:rank])
    if auto.startswith("SAME") or "output_shape" in node.attributes:
        for axis in range(rank):
            span = strides[axis] * (small[axis] - 1) + extra[axis] + dilations[axis] * (kernel[axis] - 1) + 1
            total = max(span - large[axis], 0)
            begins[axis] = total // 2 if auto == "SAME_UPPER" else total - total // 2
    elif auto == "VALID":
        begins = [0] * rank
    ends = [
        max(strides[a] * (small[a] - 1) + dilations[a] * (kernel[a] - 1) + 1 - begins[a] - large[a], 0)
        for a in range(rank)
    ]
    return Window(kernel, strides, dilations, tuple(begins), tuple(ends), large, small)


RULES: Mapping[str, Vjp] = MappingProxyType({"Conv": _conv, "ConvTranspose": _conv_transpose})
