"""Inputs taken away one after another, against least squares on those that stay."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxslim.reconstruct.elimination import Elimination

Array = np.ndarray


def case(groups: int, length: int, outputs: int = 3) -> tuple[Array, Array]:
    random = np.random.default_rng(groups)
    mix = random.normal(size=(length, length))
    return random.normal(size=(groups, 100, length)) @ mix, random.normal(size=(groups, length, outputs))


def best_without(x: Array, w: Array, gone: list[int]) -> tuple[float, Array]:
    """Squared error and weight of the least squares on the other columns."""
    left = [i for i in range(x.shape[1]) if i not in gone]
    fitted = np.zeros_like(w)
    fitted[left] = np.linalg.lstsq(x[:, left], x @ w, rcond=None)[0]
    return float(((x @ fitted - x @ w) ** 2).sum()), fitted


@pytest.mark.parametrize(("length", "taps"), [(6, 1), (12, 2)])
def test_costs_and_weights_are_those_of_least_squares(length: int, taps: int) -> None:
    x, w = case(1, length)
    atoms = np.arange(length).reshape(-1, taps)
    state = Elimination(w, x.swapaxes(1, 2) @ x, atoms, damping=0.0)
    energy = float(((x[0] @ w[0]) ** 2).sum())
    for atom, cost in enumerate(state.costs()):
        assert cost == pytest.approx(best_without(x[0], w[0], atoms[atom].tolist())[0] / energy, rel=1e-4)
    total = state.remove(np.array([1, 3])) + state.remove(np.array([4]))
    gone = atoms[[1, 3, 4]].ravel().tolist()
    error, fitted = best_without(x[0], w[0], gone)
    assert total == pytest.approx(error / energy, rel=1e-4)
    np.testing.assert_allclose(state.weight[0], fitted, atol=1e-4)
    assert np.isfinite(state.costs()).all() and (state.costs()[[1, 3, 4]] == 0).all()


def test_an_atom_may_have_rows_in_every_group() -> None:
    x, w = case(2, 4)
    atoms = np.array([[0, 4], [1, 5], [2, 6], [3, 7]])
    state = Elimination(w, x.swapaxes(1, 2) @ x, atoms, damping=0.0)
    energy = sum(float(((x[g] @ w[g]) ** 2).sum()) for g in range(2))
    for atom, cost in enumerate(state.costs()):
        expected = sum(best_without(x[g], w[g], [atom])[0] for g in range(2))
        assert cost == pytest.approx(expected / energy, rel=1e-4)


def test_the_cheapest_pair_is_found_where_inputs_repeat() -> None:
    """Twins: either may go for nothing, but not both; single costs alone would take both."""
    x, w = case(1, 5)
    x[0, :, 1] = x[0, :, 0] + 1e-3 * np.random.default_rng(3).normal(size=100)
    state = Elimination(w, x.swapaxes(1, 2) @ x, np.arange(5)[:, None], damping=1e-9)
    first = int(np.argmin(state.costs()))
    state.remove(np.array([first]))
    assert first in (0, 1)
    costs = state.costs()
    costs[first] = np.inf
    pairs = {pair: best_without(x[0], w[0], list(pair))[0] for pair in itertools.combinations(range(5), 2)}
    second = int(np.argmin(costs))
    assert pairs[tuple(sorted((first, second)))] == pytest.approx(
        min(error for pair, error in pairs.items() if first in pair), rel=1e-3
    )


def test_the_mean_counts_for_nothing_with_a_bias() -> None:
    x = np.concatenate([np.random.default_rng(0).normal(size=(1, 50, 2)), np.ones((1, 50, 1))], axis=2)
    w = np.array([[[1.0], [2.0], [1000.0]]])
    state = Elimination(w, x.swapaxes(1, 2) @ x, np.array([[0], [1]]), damping=0.0, centred=True)
    outputs = x[0] @ w[0]
    assert state.energy == pytest.approx(float(((outputs - outputs.mean()) ** 2).sum()), rel=1e-6)
