"""Each criterion against what it is defined by, and the registry."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.analysis.channels import find_groups
from onnxslim.errors import OptionError
from onnxslim.model.edit import constant_value, replace_initializer
from onnxslim.recipes.pruning.criteria import CRITERIA, Criterion, all_criteria, criterion
from onnxslim.recipes.pruning.evidence import Evidence, Weights
from onnxslim.recipes.pruning.observe import observe
from onnxslim.runtime.client import open_worker
from tests.models import model as parse
from tests.recipes.pruning.nets import feeds, small_net

DEAD = 3  # this channel is silenced


def evidence_of(model: ir.Model, *, seen: bool = True) -> Evidence:
    """Of the group of the first convolution."""
    weights = Weights(model)
    if seen:
        with open_worker() as worker:
            weights.seen = observe(worker, model, feeds(24), list(weights.products.values()))
    group = next(g for g in find_groups(model).groups if any(m.value == "w1" for m in g.members))
    return weights.evidence(group)


def silenced() -> ir.Model:
    """With a channel that is never made and that nobody listens to."""
    model = small_net()
    for name, axis in (("w1", 0), ("b1", 0), ("w2", 0), ("b2", 0), ("w3", 1)):
        array = constant_value(model.graph.initializers[name])
        assert array is not None
        copy = array.copy()
        np.moveaxis(copy, axis, 0)[DEAD] = 0
        replace_initializer(model.graph.initializers[name], copy)
    return model


@pytest.fixture(scope="module")
def dead() -> Evidence:
    return evidence_of(silenced())


@pytest.fixture(scope="module")
def copies() -> Evidence:
    return evidence_of(small_net())


@pytest.mark.parametrize("name", [c.name for c in CRITERIA if c.name not in ("random", "geometric-median")])
def test_a_dead_channel_goes_first(dead: Evidence, name: str) -> None:
    score = criterion(name).score(dead, np.random.default_rng(0))
    assert score.shape == (16,) and np.isfinite(score).all()
    assert score.argmin() == DEAD


def test_norms_are_those_of_the_weights() -> None:
    model = parse(
        """g (float[1,2] x) => (float[1,1] y)
        <float[3,2] v = {1, -2, 3, 4, 0, 1}, float[1,3] w = {5, 0, 1}>
        { h = Gemm<transB = 1>(x, v)  r = Relu(h)  y = Gemm<transB = 1>(r, w) }"""
    )
    [group] = find_groups(model).groups
    evidence = Weights(model).evidence(group)
    random = np.random.default_rng(0)
    l1 = criterion("l1").score(evidence, random)
    np.testing.assert_allclose(l1 / l1.sum(), np.array([3, 7, 1]) / 11)
    l2 = criterion("l2").score(evidence, random)
    np.testing.assert_allclose(l2 / l2.sum(), np.sqrt([5, 25, 1]) / np.sqrt([5, 25, 1]).sum())
    both = criterion("group-norm").score(evidence, random) ** 2
    np.testing.assert_allclose(both, np.array([5, 25, 1]) / (31 / 3) + np.array([25, 0, 1]) / (26 / 3))
    flat = np.array([[1, -2], [3, 4], [0, 1]]) / 4
    far = [sum(np.linalg.norm(a - b) for b in flat) for a in flat]
    np.testing.assert_allclose(criterion("geometric-median").score(evidence, random), far)


def test_activity_is_that_of_the_values(copies: Evidence) -> None:
    """Of what the pointwise convolution reads, over all positions."""
    from tests.models import run

    model = small_net()
    with_values = model.clone()
    with_values.graph.outputs[:] = [v for node in with_values.graph for v in node.outputs if v.name == "r2"]
    values = np.concatenate([run(with_values, feed)[0] for feed in feeds(24)])
    random = np.random.default_rng(0)
    for name, expected in (
        ("activation", np.abs(values).mean(axis=(0, 2, 3))),
        ("apoz", (values != 0).mean(axis=(0, 2, 3))),
    ):
        score = criterion(name).score(copies, random)
        np.testing.assert_allclose(score, expected / expected.mean(), rtol=1e-5)
    weight = constant_value(model.graph.initializers["w3"])
    assert weight is not None
    norms = np.abs(weight[:, :, 0, 0]).sum(axis=0) * np.sqrt((values.astype(float) ** 2).sum(axis=(0, 2, 3)))
    wanda = criterion("wanda").score(copies, random)
    np.testing.assert_allclose(wanda, norms / norms.mean(), rtol=1e-5)


def test_second_order_sees_that_copies_are_worth_nothing(copies: Evidence) -> None:
    """One of a pair may go; which pairs are copies no norm can tell."""
    random = np.random.default_rng(0)
    order = np.argsort(criterion("reconstruction").score(copies, random))
    pairs = {int(i) % 8 for i in order[:8]}
    assert len(pairs) == 8  # one of each pair before any second one
    assert criterion("obs").score(copies, random).max() < 0.05


def test_a_scale_that_is_still_there_counts() -> None:
    model = parse(
        """g (float[1,2,4,4] x) => (float[1,1,4,4] y)
        <float[3,2,1,1] v = {1, 2, 3, 4, 5, 6}, float[1,3,1,1] w = {1, 2, 3},
         float[3] s = {0.5, -3, 1}, float[3] b = {0, 0, 0}, float[3] m = {0, 0, 0}, float[3] u = {1, 1, 1}>
        { h = Conv(x, v)  n = BatchNormalization(h, s, b, m, u)  y = Conv(n, w) }"""
    )
    [group] = find_groups(model).groups
    score = criterion("bn-scale").score(Weights(model).evidence(group), np.random.default_rng(0))
    np.testing.assert_allclose(score, np.array([0.5, 3, 1]) / 1.5)


@pytest.mark.parametrize("name", ["activation", "apoz", "wanda", "obs", "reconstruction"])
def test_without_data_weights_decide(name: str) -> None:
    evidence = evidence_of(small_net(), seen=False)
    random = np.random.default_rng(0)
    expected = criterion("group-norm").score(evidence, random)
    np.testing.assert_array_equal(criterion(name).score(evidence, random), expected)


def test_a_name_that_is_not_known_gets_the_nearest() -> None:
    with pytest.raises(OptionError, match="no criterion 'wonda'") as caught:
        criterion("wonda")
    assert "wanda" in str(caught.value)


class _Entry:
    def __init__(self, value: object) -> None:
        self.name, self.value, self._object = "third", "package:thing", value

    def load(self) -> object:
        return self._object


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[_Entry]]:
    found: list[_Entry] = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)
    all_criteria.cache_clear()
    yield found
    all_criteria.cache_clear()


def test_others_can_register_one(entries: list[_Entry]) -> None:
    mine = Criterion("mine", lambda evidence, random: np.arange(evidence.size), False, "its number")
    entries.append(_Entry(mine))
    assert criterion("mine") is mine


def test_two_of_a_name_or_no_criterion_are_errors(entries: list[_Entry]) -> None:
    entries.append(_Entry(Criterion("obs", lambda evidence, random: np.zeros(1), False, "")))
    with pytest.raises(OptionError, match="two criteria"):
        all_criteria()
    entries[:] = [_Entry(object())]
    with pytest.raises(OptionError, match="not a criterion"):
        all_criteria()
