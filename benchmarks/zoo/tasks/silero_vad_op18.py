"""Silero's voice detector, at opset 18 without If: balanced accuracy over frames of 32 ms."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.zoo import voice
from benchmarks.zoo.scoring import Feed
from benchmarks.zoo.voice import score

__all__ = ["held_out", "inputs", "metric", "score"]


def inputs(n: int = 32) -> Iterator[Feed]:
    """Frames to calibrate on."""
    return voice.inputs("silero_vad_op18", n)


def held_out(n: int = 32) -> Iterator[Feed]:
    """Frames of a scored clip."""
    return voice.held_out("silero_vad_op18", n)


def metric(path: str) -> float:
    """Balanced accuracy of the model at a path."""
    return score(path).value
