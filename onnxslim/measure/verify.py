"""Run two models on the same feeds and say whether a promise about their outputs holds.

Both run with onnxruntime's optimizations off, so that a difference is the rewrite's, not a fusion's.  Where
one of them takes or gives integers that stand for floats, both get the same numbers, each in its own form:

    exact   bit-equal (any NaN equals any NaN)
    close   max|d| <= 1e-4 * max|ref| + 1e-6, per output and feed
    lossy   same types and shapes, and finite where the reference is; the rest is the budget's business
"""

from __future__ import annotations

import contextlib
import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx

from onnxslim._ir import ir
from onnxslim.analysis.liveness import random_outputs
from onnxslim.errors import OptionError, ResourceError
from onnxslim.measure.differences import Difference, signal_to_noise
from onnxslim.measure.interface import Interface
from onnxslim.model import io
from onnxslim.runtime.client import RemoteSession, Worker, open_worker
from onnxslim.runtime.errors import RuntimeRefused
from onnxslim.runtime.sources import RunnableModel

__all__ = [
    "OutputCheck",
    "Verification",
    "compare_sessions",
    "signal_to_noise",
    "unverifiable_outputs",
    "verify",
]

_PROMISES = ("exact", "close", "lossy")
LABELS = "__labels__"


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """How far one output is from the reference's, over all feeds.

    Attributes:
        max_abs_diff: largest absolute difference; infinite where the structure differs.
        ref_max: largest finite absolute value of the reference.
        sqnr_db: ratio of signal to noise in decibels, infinite when equal.
        reason: why the promise does not hold; empty when it does.
    """

    name: str
    max_abs_diff: float
    ref_max: float
    sqnr_db: float
    bit_equal: bool
    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """The verdict on a candidate.

    Attributes:
        ok: nothing contradicts the promise.
        verified: something was compared; False when the reference itself does not run.
        reason: what contradicts it, or why nothing could be compared.
        samples: feeds on which both ran.
        unverifiable: output -> why it cannot be compared.
    """

    ok: bool
    verified: bool
    reason: str
    promise: str
    samples: int
    outputs: tuple[OutputCheck, ...] = ()
    unverifiable: Mapping[str, str] = field(default_factory=dict)

    @property
    def sqnr_db(self) -> float:
        """The worst of the outputs'; infinite when there are none."""
        return min((output.sqnr_db for output in self.outputs), default=math.inf)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "outputs": [asdict(output) for output in self.outputs]}


def verify(
    reference: RunnableModel,
    candidate: RunnableModel,
    feeds: Iterable[Mapping[str, Any]],
    *,
    promise: str | enum.Enum,
    worker: Worker | None = None,
    unverifiable: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Verification:
    """Compare a candidate's outputs with the reference's.

    Args:
        feeds: input name -> array; feeds on which the reference does not run are skipped.
        promise: ``exact``, ``close`` or ``lossy``.
        worker: where the models run; default the current one, or one of its own.
        unverifiable: outputs not to be compared, each with its reason; default those that hang on random or
            stateful operators of the reference.
        timeout: seconds per run.

    Raises:
        OptionError: there is no such promise.

    Example:
        >>> import numpy as np
        >>> from onnx.parser import parse_model
        >>> text = '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
        >>> feed = {"x": np.ones(2, np.float32)}
        >>> verify(parse_model(text), parse_model(text), [feed], promise="exact").ok
        True
    """
    name = str(promise.value if isinstance(promise, enum.Enum) else promise).lower()
    if name not in _PROMISES:
        raise OptionError(f"there is no promise {name!r}", hint=f"one of {', '.join(_PROMISES)}")
    excluded = unverifiable_outputs(reference) if unverifiable is None else unverifiable
    with contextlib.nullcontext(worker) if worker is not None else open_worker() as used:
        return _verify(reference, candidate, feeds, name, used, excluded, timeout)


def unverifiable_outputs(model: RunnableModel) -> dict[str, str]:
    """Outputs that hang on random or stateful operators, each with its reason."""
    source = onnx.ModelProto.FromString(model) if isinstance(model, bytes) else model
    loaded = source if isinstance(source, ir.Model) else io.load(source)
    found = random_outputs(loaded)
    return {output: f"it depends on the random values of {node}" for output, node in found.items()}


def _verify(
    reference: RunnableModel,
    candidate: RunnableModel,
    feeds: Iterable[Mapping[str, Any]],
    promise: str,
    worker: Worker,
    unverifiable: Mapping[str, str],
    timeout: float | None,
) -> Verification:
    try:
        original = worker.load(reference)
    except (RuntimeRefused, ResourceError) as error:
        return Verification(True, False, f"the original does not load: {error.what}", promise, 0)
    with original:
        try:
            rewritten = worker.load(candidate)
        except (RuntimeRefused, ResourceError) as error:
            return Verification(False, True, f"the candidate does not load: {error.what}", promise, 0)
        with rewritten:
            return compare_sessions(original, rewritten, feeds, promise, unverifiable, timeout)


def compare_sessions(
    original: RemoteSession,
    rewritten: RemoteSession,
    feeds: Iterable[Mapping[str, Any]],
    promise: str,
    unverifiable: Mapping[str, str],
    timeout: float | None = None,
) -> Verification:
    """:func:`verify` for models that are loaded already; ``promise`` is the name of one."""
    present = {output.name for output in rewritten.outputs}
    names = [output.name for output in original.outputs]
    missing = [name for name in names if name not in present]
    if missing:
        reason = f"the candidate lacks the output {missing[0]!r}"
        return Verification(False, True, reason, promise, 0, unverifiable=unverifiable)
    differences = {name: Difference() for name in names if name not in unverifiable}
    own, other = Interface.of(original), Interface.of(rewritten)
    samples, skipped = 0, "no feeds were given"
    for number, feed in enumerate(feeds):
        feed = {key: value for key, value in feed.items() if key != LABELS}
        fed, fed_other = own.feed(feed, other), other.feed(feed, own)
        try:
            expected = original.run(fed, timeout=timeout)
        except RuntimeRefused as error:
            skipped = f"the original does not run on feed {number}: {error.what}"
            continue
        except ResourceError as error:  # the worker is gone, and the sessions with it
            skipped = f"the original does not run on feed {number}: {error.what}"
            break
        try:
            got = rewritten.run(fed_other, names, timeout=timeout)
        except (RuntimeRefused, ResourceError) as error:
            reason = f"the candidate does not run on feed {number}: {error.what}"
            return Verification(False, True, reason, promise, samples, unverifiable=unverifiable)
        samples += 1
        for name, reference, value in zip(names, expected, got, strict=True):
            if name in differences:
                differences[name].add(own.real(name, reference), other.real(name, value))
    outputs = tuple(_judge(name, difference, promise) for name, difference in differences.items())
    if not samples:
        return Verification(True, False, skipped, promise, 0, unverifiable=unverifiable)
    broken = next((output for output in outputs if not output.ok), None)
    reason = f"output {broken.name!r}: {broken.reason}" if broken else ""
    return Verification(broken is None, True, reason, promise, samples, outputs, unverifiable)


def _judge(name: str, found: Difference, promise: str) -> OutputCheck:
    reason = found.mismatch
    if not reason and promise == "exact" and not found.bit_equal:
        reason = f"not bit-equal, differs by {found.max_abs_diff:.3g}"
    elif not reason and promise == "close" and not found.close:
        reason = f"differs by {found.max_abs_diff:.3g} where the largest value is {found.ref_max:.3g}"
    return OutputCheck(
        name, found.max_abs_diff, found.ref_max, found.sqnr_db, found.bit_equal, not reason, reason
    )
