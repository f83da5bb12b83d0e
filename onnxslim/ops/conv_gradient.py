"""Gradients of convolutions of any rank, grouping, stride, dilation and padding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Tape, Vjp
from onnxslim.ops.attributes import int_of, ints_of, text_of
from onnxslim.ops.terms import Term, joined

__all__ = ["RULES", "Window", "window_of"]

_END = -(1 << 31)  # before the first position, for what runs backwards
_CACHED = 1 << 18  # floats of a gathered input that are near enough to be added up in place
_WIDE = 16  # channels from which a product of its own for each element of the kernel pays


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
        found[1] = _weight(tape, window, x, dy, groups, tape.sizes(weight))
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


def _weight(tape: Tape, window: Window, x: Term, dy: Term, groups: int, sizes: tuple[int, ...]) -> Term:
    """For each element of the kernel, the products of what it meets with what comes of it, summed up.

    The products of all positions and samples are one product of matrices, ``[O, N P] [N P, I]``.
    """
    made, read = sizes[0] // groups, sizes[1]
    rank, kernel = len(window.kernel), math.prod(window.kernel)
    if made == read == 1:
        return _depthwise(window, x, dy, sizes[0])
    behind = range(3, rank + 3)
    rows = (
        dy.reshape([0, groups, made, *window.outputs])
        .transpose([1, 2, 0, *behind])
        .reshape([groups, made, -1])
    )
    image = x.reshape([0, groups, read, *window.inputs]).transpose([1, 2, 0, *behind])
    met = [part.reshape([groups, read, -1]) for part in _met(window, image, 3)]
    if groups == 1:
        rows, met = rows.reshape([made, -1]), [part.reshape([read, -1]) for part in met]
    if kernel == 1 or read >= _WIDE:
        products = [_product(rows, part, groups).reshape([groups, made, read, 1]) for part in met]
        return joined(products, 3).reshape(sizes)
    whole = _product(rows, joined(met, -2), groups).reshape([groups, made, kernel, read])
    return whole.transpose([0, 1, 3, 2]).reshape(sizes)


def _product(rows: Term, columns: Term, groups: int) -> Term:
    """``rows columns^T``, of each group."""
    if groups == 1:
        return rows.then("Gemm", columns, transB=1)
    return rows.then("MatMul", columns.transpose([0, 2, 1]))


def _depthwise(window: Window, x: Term, dy: Term, channels: int) -> Term:
    """Every channel by itself: sums of products of positions."""
    others = [0, *range(2, len(window.kernel) + 2)]
    sums = [(part * dy).sum(others).unsqueeze([1]) for part in _met(window, x, 2)]
    return joined(sums, 1).reshape([channels, 1, *window.kernel])


def _met(window: Window, image: Term, first: int) -> Iterator[Term]:
    """For each element of the kernel, the input that it meets at every output."""
    axes = [axis + first for axis in range(len(window.kernel))]
    needed = [max(end - rest, 0) for end, rest in zip(window.ends, window.rest, strict=True)]
    padded = image.pad([*[0] * first, *window.begins, *[0] * first, *needed])
    for element in itertools.product(*map(range, window.kernel)):
        starts = [k * dilation for k, dilation in zip(element, window.dilations, strict=True)]
        ends = [
            start + stride * (count - 1) + 1
            for start, stride, count in zip(starts, window.strides, window.outputs, strict=True)
        ]
        whole = tuple(ends) == window.inputs and not any((*starts, *window.begins, *needed))
        yield (
            padded if whole and max(window.strides) == 1 else padded.slice(starts, ends, axes, window.strides)
        )


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
        found[1] = _weight(tape, window, dy, x, groups, tape.sizes(weight))
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
