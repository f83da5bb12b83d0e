"""What a pass is: a frozen dataclass whose fields are its options.

A pass runs inside onnx_ir's ``PassManager`` as well as inside our pipeline.  It keeps graph inputs, outputs,
names and metadata, works in subgraphs and functions, and reports honestly whether it changed the model.
What it leaves alone on purpose it *declines*, with a reason: the pipeline collects these and the report
shows them; without a pipeline they go to ``logging``.
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from onnxslim._ir import ir

__all__ = ["Decline", "DeclineLog", "Pass", "Promise", "collect_declines"]

_log = logging.getLogger(__name__)


class Promise(enum.Enum):
    """How near the outputs stay to the original's; verified by :mod:`onnxslim.measure.verify`.

    EXACT: bit-equal with onnxruntime's optimizations off.
    CLOSE: ``max|d| <= 1e-4 * max|ref| + 1e-6`` per output.
    LOSSY: bound by the accuracy budget alone.
    """

    EXACT = "exact"
    CLOSE = "close"
    LOSSY = "lossy"

    @staticmethod
    def weakest(promises: Iterator[Promise] | list[Promise]) -> Promise:
        """The loosest of several promises, EXACT when there are none."""
        order = list(Promise)
        return max(promises, key=order.index, default=Promise.EXACT)


@dataclass(frozen=True, slots=True)
class Decline:
    """Something that a pass left alone: which pass, where (node or tensor name), and why."""

    pass_name: str
    node: str
    reason: str


@dataclass(slots=True)
class DeclineLog:
    """The declines of one run, in order, each once."""

    entries: list[Decline] = field(default_factory=list)
    _seen: set[Decline] = field(default_factory=set)

    def add(self, decline: Decline) -> None:
        if decline not in self._seen:
            self._seen.add(decline)
            self.entries.append(decline)


_current_log: contextvars.ContextVar[DeclineLog | None] = contextvars.ContextVar("declines", default=None)


@contextlib.contextmanager
def collect_declines() -> Iterator[DeclineLog]:
    """Collect what passes decline while the context is open.

    Example:
        >>> with collect_declines() as log:
        ...     pass
        >>> log.entries
        []
    """
    log = DeclineLog()
    token = _current_log.set(log)
    try:
        yield log
    finally:
        _current_log.reset(token)


@dataclass(frozen=True)
class Pass(ir.passes.InPlacePass):
    """Base of every pass; subclass as a frozen dataclass and implement ``call``.

    Class attributes:
        name: kebab-case, verb-object: ``fold-constants``.
        promise: how near the outputs stay.

    Every option is a field with a default, typed ``bool``, ``int``, ``float``, ``str``, ``X | None`` or a
    ``Literal``; ``field(metadata={"help": ...})`` documents it.  Raise ``OptionError`` from
    ``__post_init__`` for a bad value.
    """

    name: ClassVar[str] = ""
    promise: ClassVar[Promise] = Promise.EXACT

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        raise NotImplementedError

    def decline(self, node: str, reason: str) -> None:
        """Record that ``node`` (a node's or tensor's name) was left alone, and why."""
        log = _current_log.get()
        if log is None:
            _log.info("%s left %s alone: %s", self.name, node, reason)
        else:
            log.add(Decline(self.name, node, reason))
