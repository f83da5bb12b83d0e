"""Task metrics: what a model is worth, as a number that is higher when it is better.

top1                    argmax over the last axis of an output against the labels
agreement               the same against the original model, where its output holds class probabilities
                        (of two that it holds for equally likely, either will do); else the mean cosine
                        with the original's output
module:function         or path.py:function: called with the path of a model, returns a float
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from onnxslim.calibration.sources.python import load_function
from onnxslim.errors import OnnxSlimError, OptionError
from onnxslim.measure.interface import Interface
from onnxslim.measure.stats import bootstrap_interval, wilson_interval
from onnxslim.runtime.client import RemoteSession, open_worker
from onnxslim.runtime.sources import RunnableModel

__all__ = ["Metric", "MetricResult", "agreeing", "cosine", "is_class_like", "largest", "regret", "resolve"]

Array = np.ndarray[Any, Any]

_NOTHING = 1e-4


@dataclass(frozen=True, slots=True)
class MetricResult:
    """A score; ``n`` is the number of things counted and ``interval`` its 95 % interval, where known.

    ``resolution`` is what one counted thing is worth: a smaller loss cannot be told from none.
    """

    value: float
    n: int | None = None
    interval: tuple[float, float] | None = None
    resolution: float = 0.0


class Metric(Protocol):
    """Scores models."""

    @property
    def name(self) -> str: ...

    def score(self, model: str | os.PathLike[str]) -> MetricResult:
        """The score of the model at a path.

        Raises:
            OptionError: the metric fails or is not a number.
        """


def is_function(spec: str | None) -> bool:
    """Whether a metric is a function of the user's, which brings data of its own.

    Example:
        >>> is_function("metrics.py:wer"), is_function("top1"), is_function(None)
        (True, False, False)
    """
    return spec is not None and ":" in spec


def resolve(
    spec: str,
    *,
    original: RunnableModel | None = None,
    feeds: Iterable[Mapping[str, Any]] | None = None,
    labels: Sequence[Any] | None = None,
    output: str | None = None,
) -> Metric:
    """The metric that ``spec`` names.

    Args:
        spec: ``top1``, ``agreement``, ``module:function`` or ``path.py:function``.
        original: what ``agreement`` compares with.
        feeds: what ``top1`` and ``agreement`` run on.
        labels: one array per feed for ``top1``; default ``feeds.labels``.
        output: the output that they read; default the first.

    Raises:
        OptionError: no such metric, or it lacks what it needs.

    Example:
        >>> resolve("math:sqrt").name
        'math:sqrt'
    """
    if is_function(spec):
        return _FunctionMetric(spec, load_function(spec))
    if spec not in ("top1", "agreement"):
        close = difflib.get_close_matches(spec, ["top1", "agreement"], 1)
        hint = f"did you mean {close[0]}?" if close else "top1, agreement or module:function"
        raise OptionError(f"there is no metric {spec!r}", hint=hint)
    if feeds is None:
        raise OptionError(f"the metric {spec} needs data", hint="give --data")
    if spec == "agreement":
        if original is None:
            raise OptionError("the metric agreement needs the original model")
        return _Agreement(feeds, original, output)
    if labels is None:
        labels = getattr(feeds, "labels", None)
    if labels is None:
        hint = "put them under the key __labels__, or use the metric agreement"
        raise OptionError("the metric top1 needs labels", hint=hint)
    return _Top1(feeds, labels, output)


@dataclass(frozen=True)
class _FunctionMetric:
    name: str
    function: Callable[[str], Any]

    def score(self, model: str | os.PathLike[str]) -> MetricResult:
        try:
            value = float(self.function(os.fspath(model)))
        except OnnxSlimError:
            raise
        except Exception as error:
            what = f"the metric fails: {type(error).__name__}: {error}"
            raise OptionError(what, where=self.name, hint=f"call it on {os.fspath(model)}") from error
        if math.isnan(value):
            raise OptionError("the metric returned NaN", where=self.name, hint="it must return a number")
        return MetricResult(value)


@dataclass(frozen=True)
class _Top1:
    feeds: Iterable[Mapping[str, Any]]
    labels: Sequence[Any]
    output: str | None
    name: str = "top1"

    def score(self, model: RunnableModel) -> MetricResult:
        hits: list[Array] = []
        outputs = _outputs(model, self.feeds, self.output)
        if len(outputs) != len(self.labels):
            raise OptionError(f"there are {len(outputs)} feeds and labels for {len(self.labels)}")
        for number, (output, label) in enumerate(zip(outputs, self.labels, strict=True)):
            found, wanted = _classes(output), np.ravel(label)
            if found.size != wanted.size:
                what = f"feed {number} has {wanted.size} labels, and the output {found.size} answers"
                raise OptionError(what, hint="name the output of the classes")
            hits.append(found == wanted)
        return _proportion(np.concatenate(hits))


class _Agreement:
    name = "agreement"

    def __init__(
        self, feeds: Iterable[Mapping[str, Any]], original: RunnableModel, output: str | None
    ) -> None:
        self._feeds = feeds
        self._output = output
        self._expected = _outputs(original, feeds, output)
        self._class_like = all(map(is_class_like, self._expected))

    def score(self, model: RunnableModel) -> MetricResult:
        pairs = list(zip(self._expected, _outputs(model, self._feeds, self._output), strict=True))
        if any(expected.shape != got.shape for expected, got in pairs):
            raise OptionError("the output has another shape than the original's")
        if self._class_like:
            return _proportion(np.concatenate([agreeing(one, two) for one, two in pairs]))
        scale = largest(self._expected)
        cosines = [cosine(one, two, scale) for one, two in pairs]
        return MetricResult(float(np.mean(cosines)), len(cosines), bootstrap_interval(cosines))


def _outputs(model: RunnableModel, feeds: Iterable[Mapping[str, Any]], output: str | None) -> list[Array]:
    with open_worker() as worker, worker.load(model, optimize="all") as session:
        name = _output_name(session, output)
        interface = Interface.of(session)
        rows = [
            interface.real(
                name, session.run({key: x for key, x in feed.items() if key != "__labels__"}, [name])[0]
            )
            for feed in feeds
        ]
    if not rows:
        raise OptionError("there are no feeds to score on")
    wrong = next(
        (row for row in rows if not isinstance(row, np.ndarray) or row.dtype.kind not in "biuf"), None
    )
    if wrong is not None:
        raise OptionError(f"the output {name!r} holds no numbers", hint="name another output")
    return [np.asarray(row) for row in rows]


def _output_name(session: RemoteSession, output: str | None) -> str:
    names = [info.name for info in session.outputs]
    if output is None:
        return names[0]
    if output not in names:
        close = difflib.get_close_matches(output, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"the model has {', '.join(names)}"
        raise OptionError(f"there is no output {output!r}", hint=hint)
    return output


def _classes(output: Array) -> Array:
    if output.ndim == 0 or output.shape[-1] == 0:
        raise OptionError("the output has no axis of classes", hint="name another output")
    return np.asarray(output.argmax(-1)).ravel()


def _proportion(hits: Array) -> MetricResult:
    if not hits.size:
        raise OptionError("the outputs are empty: there is nothing to count")
    interval = wilson_interval(int(hits.sum()), hits.size)
    return MetricResult(float(hits.mean()), hits.size, interval, 1 / hits.size)


def regret(reference: Array, output: Array) -> Array:
    """Per row of probabilities, how much less likely the output's class is than the best, by the reference.

    If the reference's probabilities are honest, the mean of it is the accuracy that the output loses.

    Example:
        >>> regret(np.array([[0.5, 0.4], [0.7, 0.3]]), np.array([[0.4, 0.6], [0.9, 0.1]])).round(3)
        array([0.1, 0. ])
    """
    chosen = np.take_along_axis(reference, output.argmax(-1)[..., None], -1)[..., 0]
    return np.asarray(reference.max(-1) - chosen).ravel()


def agreeing(reference: Array, output: Array) -> Array:
    """Per row of probabilities, whether the output's class is the one that the reference holds for likeliest.

    Where the reference itself gives two classes the same probability, to 1e-4, either will do.

    Example:
        >>> agreeing(np.array([[0.5, 0.49995], [0.7, 0.3]]), np.array([[0.4, 0.6], [0.2, 0.8]]))
        array([ True, False])
    """
    return np.asarray(regret(reference, output) <= _NOTHING)


def is_class_like(output: Array) -> bool:
    """Whether the last axis holds the probabilities of two or more classes."""
    if output.ndim == 0 or output.size == 0 or output.shape[-1] < 2 or output.dtype.kind != "f":
        return False
    return bool((output >= 0).all() and np.allclose(output.sum(-1, dtype=np.float64), 1, atol=1e-2))


def largest(outputs: Iterable[Array]) -> float:
    """The largest finite absolute value."""
    finite = (np.abs(output[np.isfinite(output)].astype(np.float64)) for output in outputs)
    return max((float(values.max(initial=0.0)) for values in finite), default=0.0)


def cosine(a: Array, b: Array, scale: float = 0.0) -> float:
    """Cosine of the angle between two arrays as vectors; 1 where both are zero, 0 where one is not finite.

    Arrays that differ by less than 1e-4 of ``scale``, the size of outputs of this kind, count as equal: the
    direction of an output that is next to nothing means nothing.

    Example:
        >>> cosine(np.array([1e-9, 0]), np.array([0, 1e-9]), scale=1.0)
        1.0
    """
    x, y = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    if scale and np.abs(x - y).max(initial=0.0) <= _NOTHING * scale:
        return 1.0
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    if not norms:
        return float(np.array_equal(x, y))
    value = float(x @ y / norms)
    return value if math.isfinite(value) else 0.0
