"""What the tasks have in common: running a model in plain onnxruntime, and scores with an interval."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.zoo.layout import model_path
from onnxslim.measure.metrics import MetricResult
from onnxslim.measure.stats import bootstrap_interval, wilson_interval

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]


def open_session(path: str | os.PathLike[str]) -> ort.InferenceSession:
    """A session as users would run it: onnxruntime's own optimizations on, CPU."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    return ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])


@functools.cache
def reference(name: str) -> ort.InferenceSession:
    """The model of that name as it was shipped."""
    return open_session(model_path(name))


def proportion(hits: Sequence[bool] | Array) -> MetricResult:
    """The share of hits, with Wilson's interval."""
    count, total = int(np.sum(hits)), len(hits)
    return MetricResult(count / total, total, wilson_interval(count, total))


def resampled(
    rows: Sequence[Any] | Array, statistic: Callable[[Array], float], n: int | None = None
) -> MetricResult:
    """A statistic of independent rows, with the interval that resampling them gives.

    Args:
        rows: one number, or several, for each thing that was scored.
        statistic: of an array of rows.
        n: how many things were scored, where that is not the number of rows.
    """
    data = np.asarray(rows, np.float64)
    interval = bootstrap_interval(data, statistic)
    return MetricResult(float(statistic(data)), len(data) if n is None else n, interval)
