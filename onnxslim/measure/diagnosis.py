"""What makes a measurement suspect, in plain words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxslim.measure.setting import Inputs

__all__ = ["Trouble", "diagnose"]

_STOLEN = 0.05


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something to know about the figures; ``fatal`` when no claim can be made because of it."""

    text: str
    fatal: bool = False


def diagnose(
    found: Sequence[Mapping[str, Any]], inputs: Inputs, threads: int, control: float
) -> list[Trouble]:
    """Look at the epochs of :func:`onnxslim.measure.remote.loop.epoch`.

    Args:
        control: log ratio between two sessions of the same model.
    """
    elapsed = sum(epoch["elapsed"] for epoch in found)
    cores = os.cpu_count() or 1
    others = max(0.0, sum(epoch["busy"] - epoch["own"] for epoch in found) / elapsed)
    stolen = sum(epoch["stolen"] for epoch in found) / elapsed / cores
    first = np.concatenate([epoch["wall"][:, 0] for epoch in found]).astype(np.float64)
    typical = float(np.median(first))
    troubles: list[Trouble] = []

    if threads > 1 and threads + others > cores + 0.5:
        troubles.append(
            Trouble(
                f"{threads} threads on {cores} cores of which other processes used {others:.1f}: the threads "
                "waited for each other, and wall time says little; use one thread or an idle machine",
                fatal=True,
            )
        )
    elif others > 0.3 * cores:
        troubles.append(Trouble(f"other processes used {others:.1f} of {cores} cores meanwhile"))
    if stolen > 0.01:
        troubles.append(
            Trouble(
                f"the hypervisor withheld {stolen:.0%} of the processor's time",
                fatal=threads > 1 and stolen > _STOLEN,  # no other clock can make up for it
            )
        )
    if abs(control) > 0.02:
        troubles.append(
            Trouble(
                f"two sessions of the same model differed by {abs(control):.1%}: smaller claims are not made"
            )
        )
    third = len(first) // 3
    if third >= 5:
        drift = float(np.median(first[-third:]) / np.median(first[:third]) - 1)
        if abs(drift) > 0.05:
            word = "slower" if drift > 0 else "faster"
            troubles.append(
                Trouble(f"the machine became {abs(drift):.0%} {word} meanwhile; the ratio is not affected")
            )
    calls = np.concatenate([epoch["calls"][0] for epoch in found])
    if len(calls) >= 200 and np.percentile(calls, 99) > 5 * np.median(calls):
        troubles.append(Trouble("one call in a hundred took over five times the median"))
    if typical < 20_000:
        troubles.append(
            Trouble(f"a call takes {typical / 1000:.0f} us, much of it the call itself rather than the model")
        )
    if len({tuple(np.shape(value) for value in feed.values()) for feed in inputs.feeds}) > 1:
        troubles.append(Trouble("the inputs differ in shape: the ratio is the median over them"))
    if inputs.note:
        troubles.append(Trouble(inputs.note))
    return troubles
