"""Meeting a target of time with a clock that is known, and the costs that two profiles give."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.errors import BudgetError
from onnxslim.measure.profile import NodeTime, Profile
from onnxslim.passes.prune_channels import PruneChannels
from onnxslim.recipes.budget import Target
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.pruning import timing
from onnxslim.recipes.pruning.apply import Pruned
from onnxslim.recipes.pruning.plan import Plan, Removal
from onnxslim.recipes.pruning.targets import Goal, meet
from onnxslim.recipes.pruning.widths import Widths, macs_for
from tests.recipes.pruning.nets import feeds, small_net
from tests.recipes.pruning.test_allocation import curves_of


class Clock:
    """A run whose models take a fixed time and one for each product."""

    def __init__(self, model: ir.Model, folder: Path, fixed: float) -> None:
        self.original, self.folder, self.file, self.notes = model, folder, None, []
        self.fixed, self.measured = fixed, 0

    def seconds(self, model: ir.Model) -> float:
        full = macs_for(self.original, feeds(1)[0])
        assert full is not None
        return self.fixed + (1 - self.fixed) * (macs_for(model, feeds(1)[0]) or 0) / full

    def latency(self, file: Any, seconds: float = 0.0) -> Any:
        from onnxslim.model.io import load

        self.measured += 1
        taken = self.seconds(load(file.path))
        return SimpleNamespace(ratio=taken, seconds_b=taken)


def plan_of(model: ir.Model, floor: float) -> Plan:
    """With costs that take ``floor`` of the time of each product for fixed."""
    curves, widths = curves_of(model)
    names = ("c1", "c2", "c3", "y")
    seconds = dict.fromkeys(names, (1.0, floor))
    return Plan(curves, Widths(model, widths.channels, feeds(1)[0], seconds), "global")


def apply(model: ir.Model, removal: Removal) -> Pruned:
    return Pruned(run_steps(model, (PruneChannels(dict(removal)),)), removal)


@pytest.mark.parametrize("floor", [0.0, 0.3, 0.6])
def test_a_wrong_table_is_put_right_by_measuring(floor: float, tmp_path: Path) -> None:
    """Whatever the table says of fixed costs, what is measured lands near the target."""
    model = small_net()
    clock = Clock(model, tmp_path, 0.2)
    goal = Goal("latency", Target(0.6, "ratio"))
    found = meet(plan_of(model, floor), goal, lambda removal, final: apply(model, removal), clock)  # type: ignore[arg-type]
    assert clock.seconds(found.model) == pytest.approx(0.6, rel=0.05)
    assert clock.measured <= 6


def test_an_absolute_time(tmp_path: Path) -> None:
    model = small_net()
    clock = Clock(model, tmp_path, 0.1)
    goal = Goal("latency", Target(0.7, "absolute"))
    found = meet(plan_of(model, 0.0), goal, lambda removal, final: apply(model, removal), clock)  # type: ignore[arg-type]
    assert clock.seconds(found.model) == pytest.approx(0.7, rel=0.05)
    goal = Goal("latency", Target(0.8, "absolute"))  # the same run may be asked again
    found = meet(plan_of(model, 0.0), goal, lambda removal, final: apply(model, removal), clock)  # type: ignore[arg-type]
    assert clock.seconds(found.model) == pytest.approx(0.8, rel=0.05)


def test_a_time_out_of_reach(tmp_path: Path) -> None:
    model = small_net()
    clock = Clock(model, tmp_path, 0.8)
    goal = Goal("latency", Target(0.5, "ratio"))
    with pytest.raises(BudgetError, match="of the time that was asked for"):
        meet(plan_of(model, 0.0), goal, lambda removal, final: apply(model, removal), clock)  # type: ignore[arg-type]


def test_fixed_costs_are_read_off_two_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that does not get faster when halved is all fixed cost; one that halves has none."""
    model = small_net()
    curves, widths = curves_of(model)
    plan = Plan(curves, widths, "global")
    made: list[ir.Model] = []

    def profiled(source: ir.Model, *given: Any, **named: Any) -> Profile:
        wide = source is model
        times = {"r1": 8.0 if wide else 4.0, "r2": 5.0, "c3": 4.0 if wide else 1.0}  # r1: Conv and Relu fused
        nodes = tuple(NodeTime(name, "Conv", "CPU", us, 0.0, False) for name, us in times.items())
        return Profile(1, sum(times.values()), nodes, {}, 0, (), {})

    def make(removal: Removal) -> ir.Model:
        made.append(apply(model, removal).model)
        return made[-1]

    monkeypatch.setattr(timing, "profile", profiled)
    found = timing.timed(plan, feeds(1), make)
    assert made and made[0].graph.initializers["w1"].shape == (8, 2, 3, 3)
    floors = {name: floor for name, (_, floor) in found.seconds.items()}
    assert floors == pytest.approx({"c1": 0.0, "c2": 1.0, "c3": 0.0}, abs=1e-9)
    assert found.total_at_full("latency") == pytest.approx(17e-6)
    for curve in curves:
        found.remove(curve.group.key, curve.order[: curve.group.size // 2])
    assert found.total("latency") == pytest.approx(1e-6 * (4 + 5 + 1))
    assert np.isfinite(found.total("macs"))
