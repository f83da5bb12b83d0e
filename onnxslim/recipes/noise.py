"""How far the outputs of a form of a model are from the original's, on a few inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from onnxslim._ir import ir
from onnxslim.measure.differences import Difference
from onnxslim.runtime.client import Optimize, Worker

__all__ = ["Rows", "noise_to_signal", "outputs_of"]

Rows: TypeAlias = Sequence[Sequence[Any]]  # per feed, the outputs in the model's order


def outputs_of(
    worker: Worker, model: ir.Model, feeds: Sequence[Mapping[str, Any]], optimize: Optimize = "none"
) -> Rows:
    """Run a model on each feed."""
    with worker.load(model, optimize=optimize) as session:
        return [session.run(feed) for feed in feeds]


def noise_to_signal(reference: Rows, found: Rows) -> float:
    """``sum d^2 / sum ref^2`` of the noisiest output over all feeds; infinite where it cannot be compared.

    Example:
        >>> import numpy as np
        >>> noise_to_signal([[np.array([3.0, 4.0])]], [[np.array([3.0, 4.5])]])
        0.01
    """
    differences = [Difference() for _ in reference[0]]
    for expected, row in zip(reference, found, strict=True):
        for difference, one, other in zip(differences, expected, row, strict=True):
            difference.add(one, other)
    return max((_ratio(difference) for difference in differences), default=0.0)


def _ratio(difference: Difference) -> float:
    if difference.signal:
        return difference.noise / difference.signal
    return float("inf") if difference.noise else 0.0
