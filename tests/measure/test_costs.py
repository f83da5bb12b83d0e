"""Costs are found again from times that were computed from them, and bad trials are told apart."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import fields, replace

import numpy as np
import onnx
import pytest

from onnxslim.errors import ModelError, OptionError
from onnxslim.measure.costs import measure as measure_module
from onnxslim.measure.costs.fit import fit_costs, non_negative_least_squares
from onnxslim.measure.costs.measure import measure_target
from onnxslim.measure.costs.sketch import Sketch
from onnxslim.measure.costs.trials import measurable, trials
from onnxslim.runtime.client import Worker
from onnxslim.runtime.targets.load import load_target
from onnxslim.runtime.targets.target import Cost, Fusion, Target


@pytest.mark.parametrize("seed", range(20))
def test_non_negative_least_squares_is_the_best_of_all_supports(seed: int) -> None:
    """Brute force: plain least squares over every subset of columns, those with negative results dropped."""
    rng = np.random.default_rng(seed)
    # columns that resemble each other, so that one that came first may have to go again
    a, b = rng.normal(size=(9, 4)) + 3 * rng.normal(size=(9, 1)), 2 * rng.normal(size=9)
    best = np.inf
    for count in range(5):
        for columns in itertools.combinations(range(4), count):
            part = a[:, list(columns)]
            x = np.linalg.lstsq(part, b, rcond=None)[0] if columns else np.zeros(0)
            if (x >= 0).all():
                best = min(best, float(np.linalg.norm(part @ x - b)))
    found = non_negative_least_squares(a, b)
    assert (found >= 0).all()
    assert float(np.linalg.norm(a @ found - b)) == pytest.approx(best, rel=1e-9)


def test_outliers_hardly_move_a_fit() -> None:
    rng = random.Random(0)
    rows = [{"node": 1.0, "mac": math.exp(rng.uniform(0, 12))} for _ in range(60)]
    times = [500 + 0.01 * row["mac"] for row in rows]
    times[::15] = [3 * time for time in times[::15]]  # something disturbed these
    costs, errors = fit_costs(rows, times)
    assert costs["node"] == pytest.approx(500, rel=0.02) and costs["mac"] == pytest.approx(0.01, rel=0.02)
    assert np.median(np.abs(errors)) < 0.01 and (errors < -0.5).sum() == 4


def random_cost(rng: random.Random, parts: tuple[str, ...]) -> Cost:
    scale = {"node": 1000.0, "mac": 0.01, "rest": 0.02, "tap": 1.0, "weight": 0.05, "output": 0.1}
    return Cost(**{part: scale[part] * rng.uniform(0.5, 2) for part in parts})


def made_up(target: Target) -> Target:
    """Costs that no machine has."""
    rng = random.Random(1)
    every = tuple(part.name for part in fields(Cost))
    fusions = []
    for fusion in target.fusions:
        parts = every if fusion.name.startswith("Conv") else ("node", "output")
        if fusion.name in ("Gemm", "MatMul"):
            parts = ("node", "mac", "rest", "weight", "output")
        costs = [random_cost(rng, parts) for _ in range(2)]
        fusions.append(replace(fusion, float_cost=costs[0], integer_cost=costs[1]))
    names = ("quantize", "dequantize", "float_layout", "integer_layout")
    conversions = {name: random_cost(rng, ("node", "output")) for name in names}
    return replace(target, fusions=tuple(fusions), measured=True, **conversions)


def price(target: Target, term: str, part: str) -> float:
    """What the target says of one kind of work."""
    if term == "call":
        return 3000.0
    if term in ("layout.float", "layout.integer"):
        return float(getattr(getattr(target, "_".join(reversed(term.split(".")))), part))
    if term in ("quantize", "dequantize"):
        return float(getattr(getattr(target, term), part))
    name, form = term.rsplit(".", 1)
    [fusion] = [f for f in target.fusions if f.name == name]
    return float(getattr(getattr(fusion, f"{form}_cost"), part))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Target:
    """A machine whose times are sums of made-up costs."""
    truth = made_up(load_target())

    def time(worker: Worker, target: Target, fusion: Fusion, sketch: Sketch, seed: int) -> object:
        layouts = sketch.kernels["QLinearConv"] > 0
        runs = {
            "float": {"ReorderInput": int(layouts), "ReorderOutput": int(layouts)},
            "integer": {"Transpose": 2 * layouts + sketch.kernels["Transpose"]},
        }
        rows = [measure_module._row(sketch, form, runs[form]) for form in ("float", "integer")]
        times = [
            sum(amount * price(truth, *key.rsplit(".", 1)) for key, amount in row.items()) for row in rows
        ]
        return measure_module._Timed(fusion, *rows, *times)

    monkeypatch.setattr(measure_module, "_time", time)
    return truth


def test_the_costs_of_a_made_up_machine_are_found(clock: Target) -> None:
    found = measure_target(load_target(), seconds=200, machine="an abacus")
    assert found.target.machine == "an abacus" and found.target.measured
    assert found.call_ns == pytest.approx(3000, rel=0.01) and found.spread < 1e-6
    for finding, true in zip(found.findings, clock.fusions, strict=True):
        assert finding.trials >= 5 and finding.missing == "" and finding.error < 1e-6
        for new, cost in [
            (finding.fusion.float_cost, true.float_cost),
            (finding.fusion.integer_cost, true.integer_cost),
        ]:
            assert new.of(finding.work) == pytest.approx(cost.of(finding.work), rel=0.05), finding.fusion.name
    conv, true = found.target.fusion("Conv"), clock.fusion("Conv")
    assert conv is not None and true is not None
    assert conv.integer_cost.mac == pytest.approx(true.integer_cost.mac, rel=0.01)
    assert found.target.quantize.output == pytest.approx(clock.quantize.output, rel=0.05)


def test_trials_are_the_same_for_the_same_seed_and_small() -> None:
    target = load_target()
    for fusion in target.fusions:
        assert measurable(fusion)
        one, two, other = (list(trials(target, fusion, 4, seed)) for seed in (0, 0, 1))
        assert len(one) == 4 and [s.shapes for s in one] == [s.shapes for s in two]
        assert [s.shapes for s in one] != [s.shapes for s in other]
        for sketch in one:
            assert any(name.startswith(fusion.name) for name, _ in sketch.integer_work)
            assert sum(work.mac for _, work in sketch.integer_work) <= 50e6


def test_the_works_of_a_sketch_are_those_of_the_planner() -> None:
    """The planner, which reads a graph, and the trials, which draw one, must count alike."""
    from onnxslim._ir import ir
    from onnxslim.analysis.shapes import infer
    from onnxslim.runtime.targets.units import find_units

    target = load_target()
    for fusion in target.fusions:
        for sketch in trials(target, fusion, 3, seed=5):
            model = ir.from_proto(onnx.load_from_string(sketch.float_model()))
            units, _ = find_units(model.graph, target)
            shapes = infer(model)
            found = [(unit.fusion.name, unit.work(shapes, target.block)) for unit in units]
            assert found == sketch.integer_work


def test_one_real_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few trials, so that no time is asserted: only that every step works on the real runtime."""
    monkeypatch.setattr(measure_module, "_LEAST", 1)
    monkeypatch.setattr(measure_module, "_EPOCH_S", 0.001)
    target = load_target()
    few = tuple(f for f in target.fusions if f.name in ("Add", "Flatten"))
    odd = replace(few[0], op_type="Sub", kernel="QLinearSub")
    wrong = replace(few[1], kernel="NchwFlatten")
    assert not measurable(odd)
    found = measure_target(replace(target, fusions=(target.fusions[0], few[0], odd, wrong)), seconds=0.1)
    trials_of = {finding.fusion.name: finding.trials for finding in found.findings}
    assert trials_of == {"Conv": 5, "Add": 1, "Sub": 0, "Flatten": 0}
    reasons = {finding.fusion.name: finding.missing for finding in found.findings}
    assert reasons["Sub"] == "there are no trials for it"
    assert "NchwFlatten does not appear" in reasons["Flatten"] and reasons["Add"] == ""
    assert found.findings[3].fusion.integer_cost == wrong.integer_cost, "what was not seen keeps its costs"
    with pytest.raises(ModelError, match="no kernel"):
        measure_target(replace(target, fusions=(wrong,)), seconds=0.1)


def test_other_providers_cannot_be_measured() -> None:
    with pytest.raises(OptionError, match="only the CPU's kernels"):
        measure_target(load_target("tensorrt"))
