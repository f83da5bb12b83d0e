"""Gradients of convolutions of any rank, grouping, stride, dilation and padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Tape, Undifferentiable, Vjp
from onnxslim.ops.attributes import int_of, ints_of, text_of
from onnxslim.ops.terms import Term

__all__ = ["RULES", "Window", "window_of"]


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
        found[0] = _transposed(window, dy, weight, groups)
    if tape.wants(1):
        found[1] = _weight(tape, window, x, dy, groups, tape.sizes(weight))
    if tape.wants(2):
        found[2] = dy.sum([0, *range(2, len(window.kernel) + 2)])
    return found


def _transposed(window: Window, dy: Term, weight: Term, groups: int) -> Term:
    """Every output's gradient, spread over the inputs that it was computed from."""
    return dy.then(
        "ConvTranspose",
        weight,
        strides=window.strides,
        dilations=window.dilations,
        pads=[*window.begins, *window.ends],
        output_padding=window.rest,
        group=groups,
    )


def _weight(tape: Tape, window: Window, x: Term, dy: Term, groups: int, sizes: tuple[int, ...]) -> Term:
    """A convolution of the input with the output's gradient, with strides and dilations exchanged."""
    made, read = sizes[0], sizes[1]
    rank = len(window.kernel)
    if made == groups and read == 1:
        return _depthwise(tape, window, x, dy, made)
    spatial = list(range(3, rank + 3))
    batch = -1
    # [N, G I, ...] -> [I, G N, ...] and [N, O, ...] -> [O, N, ...]: what is summed over are the channels
    if groups == 1:
        image = x.transpose([1, 0, *range(2, rank + 2)])
    else:
        split = x.reshape([0, groups, read, *window.inputs]).transpose([2, 1, 0, *spatial])
        image = split.reshape([read, batch, *window.inputs])
    kernel = dy.transpose([1, 0, *range(2, rank + 2)])
    return _correlated(window, image, kernel, groups).transpose([1, 0, *range(2, rank + 2)])


def _depthwise(tape: Tape, window: Window, x: Term, dy: Term, channels: int) -> Term:
    """Every channel of every sample is a group of its own."""
    rows = tape.dims(x)[0]
    if not isinstance(rows, int):
        raise Undifferentiable("the batch size is not known; give the inputs a static shape")
    image = x.reshape([1, -1, *window.inputs])
    kernel = dy.reshape([-1, 1, *window.outputs])
    found = _correlated(window, image, kernel, rows * channels)
    return found.reshape([-1, channels, 1, *window.kernel]).sum([0])


def _correlated(window: Window, image: Term, kernel: Term, groups: int) -> Term:
    """A convolution whose outputs are the elements of the window's kernel."""
    ends = tuple(end - rest for end, rest in zip(window.ends, window.rest, strict=True))
    rank = len(ends)
    found = image.then(
        "Conv",
        kernel,
        strides=window.dilations,
        dilations=window.strides,
        pads=[*window.begins, *(max(end, 0) for end in ends)],
        group=groups,
    )
    if min(ends) >= 0:
        return found
    axes = [axis for axis in range(rank) if ends[axis] < 0]
    return found.slice([0] * len(axes), [window.kernel[a] for a in axes], [axis + 2 for axis in axes])


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
