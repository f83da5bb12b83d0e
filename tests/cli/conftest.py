"""Short measurements: no test here is about how long a model takes."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """What prune and share report of a result's time is measured for a moment only."""
    monkeypatch.setattr("onnxslim.recipes.opened._LATENCY_S", 0.5)
