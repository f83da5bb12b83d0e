"""Control flow: operators that run graphs held in their attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from onnxslim._ir import ir
from onnxslim.model.edit import subgraphs
from onnxslim.ops.attributes import int_of, ints_of, opset_of
from onnxslim.ops.coupling import Axes
from onnxslim.ops.spec import OpSpec

__all__ = ["SPECS", "control_flow"]

# with the operator set since which a body may have further outputs: before, the branches of If had to agree
# in their shapes, and Scan ran over a batch
_BODIES: dict[str, tuple[Literal["branches", "loop", "scan"], int]] = {
    "If": ("branches", 11),
    "Loop": ("loop", 1),
    "Scan": ("scan", 9),
}


def control_flow(node: ir.Node, opset: int) -> Literal["branches", "loop", "scan"] | None:
    """How a node runs its bodies; None where a further output of a body has no place in the node's outputs.

    A branch's outputs are the node's; a further output of the body of a loop or a scan is stacked over the
    iterations.

    Spec: https://onnx.ai/onnx/operators/onnx__Loop.html, onnx__Scan.html, onnx__If.html
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    kind, since = _BODIES.get(node.op_type, (None, 0))
    return kind if opset >= since else None


def _tie(a: ir.Value, b: ir.Value, axes: Axes, *, skip: int | None = None, axis: int = 0) -> None:
    """Two values of different graphs are the same tensor.

    Args:
        skip: 0 or 1, which of them has one more axis, over which it is cut or stacked.
        axis: which axis that is.
    """
    pair = (a, b)
    if skip is None:
        for value, other in (pair, pair[::-1]):
            if axes.known(value) and not axes.known(other):
                axes.define(other, axes.dims(value))
    if not all(map(axes.known, pair)):
        for value in pair:
            if axes.known(value):
                _pin(value, axes, "its shape is not known in another graph")
        return
    ranks = [len(axes.dims(value)) for value in pair]
    places = [list(range(rank)) for rank in ranks]
    if skip is not None and ranks[skip]:
        places[skip].remove(axis % ranks[skip])
    if len(places[0]) != len(places[1]):
        for value in pair:
            _pin(value, axes, "its rank is another in another graph")
        return
    for own, other in zip(*places, strict=True):
        axes.equal(axes.of(a, own), axes.of(b, other))


def _pin(value: ir.Value, axes: Axes, why: str) -> None:
    for axis in range(len(axes.dims(value))):
        axes.pin(axes.of(value, axis), why)


def _couple(node: ir.Node, axes: Axes) -> None:
    """What goes into a body is the same tensor inside, and so is what comes out."""
    bodies = list(subgraphs(node))
    kind = control_flow(node, opset_of(node) or 0)
    given, made = list(node.inputs), list(node.outputs)
    if kind == "branches":
        for body in bodies:
            for inner, outer in zip(body.outputs, made, strict=True):
                _tie(inner, outer, axes)
    elif kind == "loop":
        [body] = bodies
        states = len(given) - 2
        _states(body, given[2:], made, 2, 1, axes)
        for inner, outer in zip(body.outputs[1 + states :], made[states:], strict=True):
            _tie(inner, outer, axes, skip=1)
    elif kind == "scan":
        [body] = bodies
        scanned = int_of(node, "num_scan_inputs", 0)
        states = len(given) - scanned
        _states(body, given[:states], made, 0, 0, axes)
        along = ints_of(node, "scan_input_axes") or [0] * scanned
        for inner, value, axis in zip(body.inputs[states:], given[states:], along, strict=True):
            if value is not None:
                _tie(inner, value, axes, skip=1, axis=axis)
        stacked = made[states:]
        along = ints_of(node, "scan_output_axes") or [0] * len(stacked)
        for inner, outer, axis in zip(body.outputs[states:], stacked, along, strict=True):
            _tie(inner, outer, axes, skip=1, axis=axis)
    else:
        for body in bodies:
            for value in (*body.inputs, *body.outputs):
                _pin(value, axes, f"it goes into or comes out of {node.op_type}")


def _states(
    body: ir.Graph,
    given: Sequence[ir.Value | None],
    made: Sequence[ir.Value],
    first: int,
    last: int,
    axes: Axes,
) -> None:
    """What one iteration hands to the next: before, inside, after it, and at the end."""
    for place, value in enumerate(given):
        inner = body.inputs[first + place]
        for other in (value, body.outputs[last + place], made[place]):
            if other is not None and other.name:
                _tie(inner, other, axes)


# what is inside decides, so nothing is folded as a whole
SPECS = tuple(OpSpec(op_type=name, foldable=False, couple=_couple) for name in (*_BODIES, "SequenceMap"))
