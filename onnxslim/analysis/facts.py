"""What is known about a model's values before it runs: shapes, element types, constants."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from functools import cached_property

from onnxslim._ir import ir
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.model import edit
from onnxslim.ops.spec import Array, Dims

__all__ = ["Known", "forget_facts", "known_facts", "sharing_facts"]


class Known:
    """The :class:`onnxslim.ops.spec.Facts` of a model; shapes are inferred when first asked for.

    They stay true under rewrites that keep the values, so that one inference serves a whole pass.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    @cached_property
    def _shapes(self) -> Shapes:
        return infer(self._model)

    def shape(self, value: ir.Value) -> Dims | None:
        """Dimensions: an int, a name that means the same size everywhere, or None; None if all is unknown."""
        return self._shapes.shape(value)

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """Element type of a tensor; None where it is unknown or the value is none."""
        return self._shapes.dtype(value)

    def constant(self, value: ir.Value) -> Array | None:
        """Content of a value that is the same in every run."""
        return edit.constant_value(value)


# id of a model -> what is known about it; Known keeps the model, so that the id stays its own
_shared: contextvars.ContextVar[dict[int, Known] | None] = contextvars.ContextVar("facts", default=None)


@contextlib.contextmanager
def sharing_facts() -> Iterator[None]:
    """Let passes share what is inferred; whoever runs them calls :func:`forget_facts` after each change."""
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def known_facts(model: ir.Model) -> Known:
    """What is known about the model as it is; shared with other passes inside :func:`sharing_facts`.

    Example:
        >>> model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
        >>> with sharing_facts():
        ...     known_facts(model) is known_facts(model)
        True
    """
    shared = _shared.get()
    return Known(model) if shared is None else shared.setdefault(id(model), Known(model))


def forget_facts(model: ir.Model) -> None:
    """The model has changed: more may be known now."""
    shared = _shared.get()
    if shared is not None:
        shared.pop(id(model), None)
