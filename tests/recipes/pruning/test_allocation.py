"""Sharing out against brute force, and estimated costs against those of really pruned models."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.analysis.channels import find_groups
from onnxslim.analysis.cost import cost
from onnxslim.passes.prune_channels import PruneChannels
from onnxslim.recipes.pruning.allocation import Curve, evenly, greedily, options_of, removal
from onnxslim.recipes.pruning.plan import Plan
from onnxslim.recipes.pruning.widths import Widths, macs_for
from tests.recipes.pruning.nets import feeds, small_net


def curves_of(model: ir.Model, multiple: int = 1, seed: int = 0) -> tuple[list[Curve], Widths]:
    random, channels = np.random.default_rng(seed), find_groups(model)
    curves = []
    for group in channels.groups:
        removed = options_of(group.size, multiple)
        loss = np.concatenate([[0.0], np.cumsum(np.sort(random.random(len(removed) - 1)))])
        curves.append(Curve(group, random.permutation(group.size), removed, tuple(loss)))
    return curves, Widths(model, channels, feeds(1)[0])


@pytest.mark.parametrize("seed", range(4))
def test_estimates_are_the_costs_of_the_pruned_model(seed: int) -> None:
    model = small_net()
    curves, widths = curves_of(model, seed=seed)
    random = np.random.default_rng(seed)
    for curve in curves:
        widths.remove(curve.group.key, curve.order[: random.integers(0, curve.group.size)])
    result = model.clone()
    PruneChannels(dict(removal(curves, widths)))(result)
    assert widths.total("macs") == macs_for(result, feeds(1)[0])
    assert widths.total("params") == cost(result).params
    assert widths.total_at_full("macs") == macs_for(model, feeds(1)[0])


def test_the_greedy_choice_is_near_the_best() -> None:
    """Two groups whose loss bends upwards, every combination tried."""
    model = small_net()
    for seed in range(10):
        curves, widths = curves_of(model, seed=seed)
        full = widths.total("macs")
        target = 0.6 * full
        assert greedily(curves, widths, "macs", target)
        assert widths.total("macs") <= target
        loss = {c.group.key: dict(zip(c.removed, c.loss, strict=True)) for c in curves}
        found = sum(loss[c.group.key][len(widths.removed[c.group.key])] for c in curves)
        best = np.inf
        for combination in itertools.product(*(c.removed for c in curves)):
            for curve, count in zip(curves, combination, strict=True):
                widths.remove(curve.group.key, curve.order[:count])
            if widths.total("macs") <= target:
                pairs = zip(curves, combination, strict=True)
                best = min(best, sum(loss[c.group.key][count] for c, count in pairs))
        assert best <= found <= 1.2 * best


def test_multiples_stay() -> None:
    model = small_net()
    curves, widths = curves_of(model, multiple=4)
    plan = Plan(curves, widths, "global")
    found = plan.meet("macs", 0.0)
    left = {c.group.key: c.group.size - len(found.get(c.group.key, ())) for c in curves}
    assert set(left.values()) == {4}


def test_even_shares_and_overrides() -> None:
    model = small_net()
    curves, widths = curves_of(model)
    plan = Plan(curves, widths, "uniform")
    assert {len(atoms) for atoms in plan.share(0.5).values()} == {8, 6}
    plan.overrides = {curves[0].group.key: 0.25}
    assert len(plan.share(0.5)[curves[0].group.key]) == round(0.25 * curves[0].group.size)
    met = plan.meet("macs", 0.6 * widths.total_at_full("macs"))
    assert len(met[curves[0].group.key]) == round(0.25 * curves[0].group.size)
    assert widths.total("macs") <= 0.6 * widths.total_at_full("macs")


def test_evenly_takes_the_nearest_option() -> None:
    model = small_net()
    curves, widths = curves_of(model, multiple=8)
    evenly(curves, widths, 0.3)
    assert {c.group.size: len(widths.removed[c.group.key]) for c in curves} == {16: 8, 12: 4}
