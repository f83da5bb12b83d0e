"""The optimizers against their definitions in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxslim.distillation.optimizer import Optimizer, OptimizerName, clip, global_norm, schedule


def test_adam_is_what_its_authors_wrote() -> None:
    rng = np.random.default_rng(0)
    weights = {"a": rng.normal(size=(3, 4)).astype("f"), "b": rng.normal(size=5).astype("f")}
    expected = {name: array.astype(np.float64) for name, array in weights.items()}
    first = {name: np.zeros_like(array) for name, array in expected.items()}
    second = {name: np.zeros_like(array) for name, array in expected.items()}
    optimizer = Optimizer()
    for step in range(1, 40):
        gradients = {name: rng.normal(size=array.shape).astype("f") for name, array in weights.items()}
        optimizer.update(weights, gradients, 0.01)
        for name, gradient in gradients.items():
            exact = gradient.astype(np.float64)
            first[name] = 0.9 * first[name] + 0.1 * exact
            second[name] = 0.999 * second[name] + 0.001 * exact**2
            fair = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            expected[name] -= 0.01 * fair[0] / (np.sqrt(fair[1]) + 1e-8)
    for name, array in weights.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected[name], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_both_find_the_bottom_of_a_bowl(name: OptimizerName) -> None:
    weights = {"w": np.array([3.0, -2.0], np.float32)}
    optimizer = Optimizer(name)
    for step in range(400):
        optimizer.update(weights, {"w": 2 * weights["w"]}, 0.05 * schedule(step, 400, 10))
    assert np.abs(weights["w"]).max() < 1e-2


def test_a_parameter_without_a_gradient_stays() -> None:
    weights = {"w": np.ones(2, np.float32), "still": np.ones(2, np.float32)}
    Optimizer().update(weights, {"w": np.ones(2, np.float32)}, 0.1)
    assert (weights["still"] == 1).all() and (weights["w"] < 1).all()


def test_gradients_are_shortened_together_and_keep_their_direction() -> None:
    gradients = {"a": np.array([3.0], np.float32), "b": np.array([4.0], np.float32)}
    assert global_norm(gradients) == 5
    found = clip(gradients, 1.0)
    assert math.isclose(global_norm(found), 1.0, rel_tol=1e-6)
    assert math.isclose(found["b"][0] / found["a"][0], 4 / 3, rel_tol=1e-6)
    assert clip(gradients, 10.0)["a"] is gradients["a"]


def test_a_gradient_that_is_not_finite_has_no_finite_length() -> None:
    assert not math.isfinite(global_norm({"a": np.array([np.nan], np.float32)}))
    assert not math.isfinite(global_norm({"a": np.array([np.inf], np.float32)}))


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    shares = [schedule(step, 100, 5) for step in range(100)]
    assert shares[0] == 0.2 and max(shares) == 1.0 and shares[-1] < 0.01
    assert shares[4:] == sorted(shares[4:], reverse=True)
