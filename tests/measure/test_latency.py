"""The harness: its decisions on made-up times, and that it runs on every kind of model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from onnxslim.errors import DependencyError, ModelError, OptionError
from onnxslim.measure.diagnosis import Trouble
from onnxslim.measure.latency import Latency, conclude, measure_latency, pays
from onnxslim.measure.setting import Inputs, Setting
from onnxslim.measure.verdict import decide
from tests.models import proto


def made_up(
    ratio: float,
    *,
    control: float = 1.0,
    noise: float = 0.01,
    interrupted: float = 1.0,
    others: float = 0.0,
    epochs: int = 4,
    rounds: int = 30,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """What the loop would return for a model of 1 ms and one ``ratio`` times as slow."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(epochs):
        drift = rng.normal(1, 0.2)  # the machine's speed changes from epoch to epoch
        scale = np.array([1.0, control, ratio]) * 1e6 * drift
        cpu = scale * np.exp(rng.normal(0, noise, (rounds, 3)))
        wall = cpu * np.exp(rng.exponential(np.log(interrupted) / math.log(2), (rounds, 3)))
        found.append(
            {
                "wall": wall.astype(np.int64),
                "cpu": cpu.astype(np.int64),
                "calls": [wall[:, i].astype(np.int64) for i in range(3)],
                "elapsed": 1.0,
                "own": 1.0,
                "busy": 1.0 + others,
                "stolen": 0.0,
                "switches": 0.0,
            }
        )
    return found


def verdict_of(found: list[dict[str, Any]], threads: int = 1) -> Latency:
    return conclude(found, Inputs(({"x": np.ones(1)},)), Setting(threads), 0, 4.0)


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.0, "equal"), (0.9, "faster"), (1.1, "slower"), (0.5, "faster"), (3.0, "slower")]
)
def test_verdicts(ratio: float, verdict: str) -> None:
    found = verdict_of(made_up(ratio))
    assert found.verdict == verdict and found.clock == "wall"
    assert found.interval[0] <= found.ratio <= found.interval[1]
    assert found.ratio == pytest.approx(ratio, rel=0.01)
    assert pays(found) is (ratio <= 1.0)


def test_identical_models_are_never_told_apart() -> None:
    verdicts = [verdict_of(made_up(1.0, noise=0.05, seed=seed)).verdict for seed in range(10)]
    assert set(verdicts) <= {"equal", "inconclusive"}


def test_a_difference_within_the_margin_is_no_claim() -> None:
    assert verdict_of(made_up(0.985)).verdict in ("equal", "inconclusive")


def test_interrupted_calls_are_compared_by_cpu_time() -> None:
    found = verdict_of(made_up(0.9, interrupted=1.6))
    assert (found.clock, found.verdict) == ("cpu", "faster")
    assert any("CPU time" in note for note in found.diagnosis)


def test_more_threads_than_cores_are_left_is_inconclusive_with_its_reason() -> None:
    found = verdict_of(made_up(0.5, others=1000.0), threads=2)
    assert found.verdict == "inconclusive" and any("threads" in note for note in found.diagnosis)


def test_a_stray_control_widens_the_margin() -> None:
    found = verdict_of(made_up(0.95, control=1.05))
    assert found.verdict == "inconclusive" and any("same model" in note for note in found.diagnosis)
    assert verdict_of(made_up(0.8, control=1.05)).verdict == "faster"


@pytest.mark.parametrize(
    ("low", "high", "stray", "verdict"),
    [
        (-0.2, -0.03, 0, "faster"),
        (-0.2, -0.01, 0, "inconclusive"),
        (0.03, 0.2, 0, "slower"),
        (-0.01, 0.01, 0, "equal"),
        (-0.01, 0.03, 0, "inconclusive"),
        (0.03, 0.2, 0.05, "inconclusive"),
        (-0.3, 0.3, 0, "inconclusive"),
    ],
)
def test_decide(low: float, high: float, stray: float, verdict: str) -> None:
    assert decide(low, high, stray) == verdict
    assert decide(low, high, stray, [Trouble("note")]) == verdict
    assert decide(low, high, stray, [Trouble("bad", fatal=True)]) == "inconclusive"


def test_to_dict_is_plain() -> None:
    plain = verdict_of(made_up(0.9)).to_dict()
    assert plain["verdict"] == "faster" and len(plain["interval"]) == 2
    assert len(plain["raw"]["b_over_a"]) == 4 and len(plain["raw"]["control"][0]) == 30


SMALL = {"budget_s": 0.3}
MODELS = {
    "static": "g (float[2, 3] x) => (float[2, 3] y) { y = Neg(x) }",
    "dynamic": "g (float[n, 3] x) => (float[n, 3] y) { y = Neg(x) }",
    "tokens": """g (int64[b, t] x) => (float[b, t, 2] y) <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}> {
        y = Gather(w, x) }""",
    "state": "g (float[1, 4] x, float[1, 4] h) => (float[1, 4] y, float[1, 4] k) { y = Add(x, h) k = Neg(h)}",
    "string": "g (string[n] x) => (string[n] y) { y = Identity(x) }",
    "bfloat16": "g (float[n] x) => (bfloat16[n] y) { y = Cast<to=16>(x) }",
    "bool": "g (bool[n] x) => (bool[n] y) { y = Not(x) }",
}


@pytest.mark.parametrize("kind", MODELS)
def test_runs_without_data(kind: str) -> None:
    found = measure_latency(proto(MODELS[kind]), **SMALL)
    assert found.verdict is None and found.b is None and found.epochs >= 2
    assert 0 < found.a.best <= found.a.p50 <= found.a.p90 <= found.a.p99


def test_two_models_on_given_feeds() -> None:
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(n, 64)).astype(np.float32)} for n in (2, 5)]
    text = "g (float[n, 64] x) => (float[n, n] y) {{ t = Transpose(x) y0 = MatMul(x, t) {} }}"
    light = proto(text.format("y = Relu(y0)"))
    heavy = proto(
        text.format(" ".join(f"y{i + 1} = MatMul(y{i}, y{i})" for i in range(40)) + " y = Relu(y40)")
    )
    found = measure_latency(light, heavy, feeds=feeds, **SMALL)
    assert found.verdict in ("slower", "inconclusive") and found.ratio > 1.5
    assert any("shape" in note for note in found.diagnosis)


def test_what_cannot_be_measured_is_an_error() -> None:
    model = proto(MODELS["static"])
    feed = {"x": np.ones((2, 3), np.float32)}
    with pytest.raises(OptionError, match="no inputs"):
        measure_latency(model, feeds=[], **SMALL)
    with pytest.raises(ModelError) as caught:
        measure_latency(
            model, proto("g (float[2, 4] x) => (float[2, 4] y) { y = Neg(x) }"), feeds=[feed], **SMALL
        )
    assert caught.value.where is not None and "model B" in caught.value.where
    with pytest.raises(ModelError, match="NoSuchOp"):
        measure_latency(
            model, proto("g (float[2, 3] x) => (float[2, 3] y) { y = NoSuchOp(x) }"), feeds=[feed], **SMALL
        )
    with pytest.raises(OptionError):
        measure_latency(model, feeds=[feed], threads=0)
    with pytest.raises(DependencyError):
        measure_latency(model, feeds=[feed], providers=["directml"], **SMALL)
