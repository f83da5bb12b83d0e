"""Recurrent layers as one product for all inputs and a few nodes for each step, which have gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxslim._ir import ir
from onnxslim.ops.adjoint import Tape, Undifferentiable
from onnxslim.ops.attributes import float_of, has, int_of, text_of
from onnxslim.ops.terms import Term, joined

__all__ = ["gru_steps", "lstm_steps", "rnn_steps"]

_LONGEST = 1024  # steps, of ten nodes or so each
_FUNCTIONS = {name.lower(): name for name in ("Sigmoid", "Tanh", "Relu", "Softsign", "Softplus")}


@dataclass
class _Layer:
    """One direction of a layer, with the terms that its steps read.

    Attributes:
        steps: what the input contributes to the gates of each step, biases included, ``[batch, gates]``.
        recurrence: ``[gates, hidden]``, cut where a step needs parts of it at different times.
        biases: those of the recurrence, for each gate; none where they have been added to the steps.
        peepholes: for each gate that has one.
        masks: where a sequence goes on, for each step; none where all are of the same length.
        hidden, cell: the states in front, None for zeros.
    """

    size: int
    steps: Sequence[Term]
    recurrence: Sequence[Term]
    biases: Sequence[Term]
    peepholes: Sequence[Term]
    masks: Sequence[Term] | None
    hidden: Term | None
    cell: Term | None
    functions: Sequence[str]
    backwards: bool
    late: bool = False

    def gates(self, step: Term, count: int) -> list[Term]:
        """What the gates are functions of."""
        whole = step if self.hidden is None else self.hidden.then("Gemm", self.recurrence[0], step, transB=1)
        return whole.split([self.size] * count, 1) if count > 1 else [whole]

    def keep(self, index: int, new: Term, old: Term | None) -> Term:
        """Behind the end of a sequence its state stays."""
        if self.masks is None:
            return new
        mask = self.masks[index]
        return new * mask if old is None else old + (new - old) * mask

    def run(self, advance: _Advance) -> tuple[Term, Term, Term | None]:
        """All outputs ``[steps, batch, hidden]``, and the last states."""
        made: dict[int, Term] = {}
        order = range(len(self.steps))
        for index in reversed(order) if self.backwards else order:
            hidden, cell = advance(self, self.steps[index])
            output = hidden if self.masks is None else hidden * self.masks[index]
            self.hidden = self.keep(index, hidden, self.hidden)
            self.cell = None if cell is None else self.keep(index, cell, self.cell)
            made[index] = output.unsqueeze([0])
        assert self.hidden is not None
        return joined([made[index] for index in order], 0), self.hidden, self.cell


_Advance = Callable[[_Layer, Term], tuple[Term, Term | None]]  # (layer, step) -> hidden, cell


def _lstm(layer: _Layer, step: Term) -> tuple[Term, Term | None]:
    """Gates input, output, forget and cell. Spec: https://onnx.ai/onnx/operators/onnx__LSTM.html"""
    into, out, forget, new = layer.gates(step, 4)
    f, g, h = layer.functions
    old, peepholes = layer.cell, layer.peepholes
    if peepholes and old is not None:
        into, forget = into + old * peepholes[0], forget + old * peepholes[2]
    cell = into.then(f) * new.then(g)
    if old is not None:
        cell = cell + forget.then(f) * old
    if peepholes:
        out = out + cell * peepholes[1]
    return out.then(f) * cell.then(h), cell


def _gru(layer: _Layer, step: Term) -> tuple[Term, Term | None]:
    """Gates update, reset and hidden. Spec: https://onnx.ai/onnx/operators/onnx__GRU.html"""
    f, g = layer.functions
    size, hidden = layer.size, layer.hidden
    if hidden is None:
        update, reset, new = step.split([size] * 3, 1)
        if layer.late:
            new = new + reset.then(f) * layer.biases[2]
        new = new.then(g)
        return new - update.then(f) * new, None
    into, candidate = step.split([2 * size, size], 1)
    to_gates, to_new = layer.recurrence
    update, reset = hidden.then("Gemm", to_gates, into, transB=1).then(f).split([size] * 2, 1)
    if layer.late:
        candidate = candidate + reset * hidden.then("Gemm", to_new, layer.biases[2], transB=1)
    else:
        candidate = (reset * hidden).then("Gemm", to_new, candidate, transB=1)
    new = candidate.then(g)
    return new + update * (hidden - new), None


def _rnn(layer: _Layer, step: Term) -> tuple[Term, Term | None]:
    """Spec: https://onnx.ai/onnx/operators/onnx__RNN.html"""
    return layer.gates(step, 1)[0].then(layer.functions[0]), None


def lstm_steps(node: ir.Node, tape: Tape) -> Sequence[Term | None]:
    """For :attr:`OpSpec.expand`."""
    if int_of(node, "input_forget", 0):
        raise Undifferentiable("its input and forget gates are coupled")
    return _steps(node, tape, _lstm, 4, ("Sigmoid", "Tanh", "Tanh"))


def gru_steps(node: ir.Node, tape: Tape) -> Sequence[Term | None]:
    """For :attr:`OpSpec.expand`."""
    return _steps(node, tape, _gru, 3, ("Sigmoid", "Tanh"))


def rnn_steps(node: ir.Node, tape: Tape) -> Sequence[Term | None]:
    """For :attr:`OpSpec.expand`."""
    return _steps(node, tape, _rnn, 1, ("Tanh",))


def _steps(
    node: ir.Node, tape: Tape, advance: _Advance, gates: int, defaults: tuple[str, ...]
) -> Sequence[Term | None]:
    if int_of(node, "layout", 0):
        raise Undifferentiable("the batch comes first")
    if float_of(node, "clip", 0.0):
        raise Undifferentiable("its gates are clipped")
    directions = 2 if text_of(node, "direction", "forward") == "bidirectional" else 1
    functions = _functions(node, defaults * directions)
    own = [functions[len(defaults) * d :][: len(defaults)] for d in range(directions)]
    made = [_layer(node, tape, d, gates, own[d]).run(advance) for d in range(directions)]
    outputs: list[Term | None] = [joined([y.unsqueeze([1]) for y, _, _ in made], 1)]
    outputs.append(joined([hidden.unsqueeze([0]) for _, hidden, _ in made], 0))
    cells = [cell.unsqueeze([0]) for _, _, cell in made if cell is not None]
    outputs.append(joined(cells, 0) if cells else None)
    return outputs


def _functions(node: ir.Node, defaults: Sequence[str]) -> Sequence[str]:
    attribute = node.attributes.get("activations")
    names = defaults if attribute is None else attribute.as_strings()
    found = [_FUNCTIONS.get(name.lower()) for name in names]
    if None in found or has(node, "activation_alpha", "activation_beta"):
        raise Undifferentiable("activation functions " + ", ".join(names))
    return [name for name in found if name is not None]


def _layer(node: ir.Node, tape: Tape, direction: int, gates: int, functions: Sequence[str]) -> _Layer:
    """The parts that belong to one direction."""
    x, size = tape.x(0), tape.sizes(tape.x(2))[2]
    count = tape.dims(x)[0]
    if not isinstance(count, int) or not 0 < count <= _LONGEST:
        raise Undifferentiable("its number of steps is not known, or large; give the inputs a static shape")
    late = gates == 3 and bool(int_of(node, "linear_before_reset", 0))
    whole, biases = x.then("MatMul", _part(tape, 1, direction).transpose([1, 0])), []
    if tape.has(3):
        own, recurrent = _part(tape, 3, direction).split([gates * size] * 2, 0)
        biases = recurrent.split([size] * gates, 0) if gates > 1 else [recurrent]
        if late:  # the last one is added in front of the reset
            recurrent = joined([biases[0], biases[1], biases[2] * 0.0], 0)
        whole = whole + (own + recurrent)
    elif late:
        biases = [x.like(0.0)] * 3
    recurrence = _part(tape, 2, direction)
    peepholes = _part(tape, 7, direction).split([size] * 3, 0) if gates == 4 and tape.has(7) else []
    return _Layer(
        size=size,
        steps=[part.squeeze([0]) for part in whole.split([1] * count, 0)],
        recurrence=recurrence.split([2 * size, size], 0) if gates == 3 else [recurrence],
        biases=biases,
        peepholes=peepholes,
        masks=_masks(tape, count, x.dtype) if tape.has(4) else None,
        hidden=_part(tape, 5, direction) if tape.has(5) else None,
        cell=_part(tape, 6, direction) if gates == 4 and tape.has(6) else None,
        functions=functions,
        backwards=direction == 1 or text_of(node, "direction", "forward") == "reverse",
        late=late,
    )


def _part(tape: Tape, index: int, direction: int) -> Term:
    """What an input, stacked over directions, holds for one of them."""
    whole = tape.x(index)
    if tape.dims(whole)[0] == 1:
        return whole.squeeze([0])
    return whole.split([1, 1], 0)[direction].squeeze([0])


def _masks(tape: Tape, count: int, dtype: ir.DataType) -> list[Term]:
    lengths = tape.x(4)
    return [(lengths > index).cast(dtype).unsqueeze([1]) for index in range(count)]
