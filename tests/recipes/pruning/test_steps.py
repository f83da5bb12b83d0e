"""Removing twice is removing once; and a budget is searched, not guessed."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.analysis.channels import find_groups
from onnxslim.model.edit import constant_value
from onnxslim.recipes.budget import Target
from onnxslim.recipes.pruning.apply import pruned
from onnxslim.recipes.pruning.milder import between, furthest
from onnxslim.recipes.pruning.steps import Left
from onnxslim.recipes.pruning.targets import Goal
from tests.contract.channels import load
from tests.contract.channels_cases import CASES
from tests.recipes.pruning.nets import small_net


@pytest.mark.parametrize("name", ["small", *(name for name, case in CASES.items() if not case.contrib)])
def test_two_removals_are_one(name: str) -> None:
    model = small_net() if name == "small" else load(CASES[name])
    random = np.random.default_rng(0)

    def sizes(source: ir.Model) -> dict[str, int]:
        return {group.key: group.size for group in find_groups(source).groups if group.size > 1}

    channels, first = find_groups(model), dict.fromkeys(sizes(model), (0,))  # all others move up
    once = pruned(model, channels, first).model
    now = find_groups(once)
    left = Left.of(channels, first, now)
    if left is None:
        assert len(now.groups) < len(channels.groups)  # one with a single atom is none
        return
    second = {key: (int(random.integers(size)),) for key, size in sizes(once).items()}
    twice = pruned(once, now, second).model
    direct = pruned(model, channels, left.and_then(second)).model
    for key, value in twice.graph.initializers.items():
        weight = constant_value(value)
        if weight is not None and weight.dtype.kind == "f":  # integers that hold sizes may have been copied
            np.testing.assert_array_equal(weight, constant_value(direct.graph.initializers[key]))


def test_other_groups_are_not_matched() -> None:
    model, other = small_net(), load(CASES["heads"])
    assert Left.of(find_groups(model), {}, find_groups(other)) is None


@pytest.mark.parametrize("limit", [0.05, 0.1, 0.3, 0.7, 0.99])
def test_the_furthest_that_is_allowed(limit: float) -> None:
    tried: list[float] = []

    def attempt(share: float) -> float:
        tried.append(share)
        return share

    found = furthest(attempt, lambda share: share <= limit)
    assert len(tried) == 4
    if limit < 1 / 16:
        assert found is None
    else:
        assert found is not None and found[0] == found[1] and 0 <= limit - found[0] <= 1 / 16


def test_goals_between_nothing_and_all() -> None:
    assert between(Goal("bytes", Target(40.0, "absolute")), 0.5, full=100.0).target.value == 70
    assert between(Goal("latency", Target(0.6, "ratio")), 0.25).target.value == pytest.approx(0.9)
    assert between(Goal("ratio", Target(0.6, "ratio")), 1.0).target.value == 0.6
