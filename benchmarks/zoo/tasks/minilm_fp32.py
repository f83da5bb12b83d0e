"""The sentence encoder MiniLM, in float, by torch's TorchScript exporter: rank correlation on sentences."""

from __future__ import annotations

from benchmarks.zoo.sentences import held_out, inputs, score

__all__ = ["held_out", "inputs", "metric", "score"]


def metric(path: str) -> float:
    """Rank correlation of the model at a path."""
    return score(path).value
