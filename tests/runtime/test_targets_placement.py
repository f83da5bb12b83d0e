"""Placements are the cheapest ones, and what their rules forbid does not happen."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from onnxslim.analysis.shapes import infer
from onnxslim.runtime.targets.load import load_target
from onnxslim.runtime.targets.placement import Placement, place
from onnxslim.runtime.targets.target import Cost, Fusion, Target
from onnxslim.runtime.targets.units import find_units
from tests.passes.test_quantize_static import built

CONV = Fusion(
    "Conv",
    "QLinearConv",
    "quantized",
    blocked=True,
    activations=("Relu",),
    float_cost=Cost(node=100),
    integer_cost=Cost(node=40),
)
ADD = Fusion(
    "Add",
    "QLinearAdd",
    "quantized",
    blocked=True,
    free_behind=("Conv",),
    float_cost=Cost(node=50),
    integer_cost=Cost(node=10),
)
SIGMOID = Fusion(
    "Sigmoid", "QLinearSigmoid", "quantized", float_cost=Cost(node=500), integer_cost=Cost(node=1)
)
TARGET = Target(
    "test",
    "r",
    "m",
    "CPUExecutionProvider",
    (CONV, ADD, SIGMOID),
    quantize=Cost(node=10),
    dequantize=Cost(node=10),
    measured=True,
)


def placed(text: str, target: Target, **weights: tuple[int, ...]) -> tuple[list[str], Placement]:
    """The operators that become integers."""
    model = built(text, **weights)
    shapes = infer(model)
    units, _ = find_units(model.graph, target)
    placement = place(units, target, shapes)
    return [unit.node.outputs[0].name or "" for unit in placement.units], placement


WEIGHT = {"w": (4, 4, 1, 1)}


def test_what_has_no_weight_only_continues_an_island() -> None:
    """A sigmoid would gain 499 of 500 by itself, and still must not begin an island."""
    names, _ = placed("g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y = Sigmoid(x) }", TARGET)
    assert names == []
    text = "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { c = Conv(x, w) y = Sigmoid(c) }"
    assert placed(text, TARGET, **WEIGHT)[0] == ["c", "y"]
    text = "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { e = Erf(x) c = Conv(x, w) y = Add(c, e) }"
    assert placed(text, TARGET, **WEIGHT)[0] == ["c"], "one of its inputs comes as floats"


def test_a_sum_that_a_convolution_absorbs_costs_nothing_in_floats() -> None:
    text = "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Conv(x, w) b = Conv(x, w) y = Add(a, b) }"
    dear = replace(ADD, integer_cost=Cost(node=120))
    # in floats 100 + 100 + 0; in integers 10 + 40 + 40 + 120 + 10: the sum stays, the products still pay
    target = replace(TARGET, fusions=(CONV, dear))
    assert placed(text, target, **WEIGHT)[0] == ["a", "b"]
    # at 55 it pays only if its float form costs 50: one conversion instead of two is the other 10
    bound = replace(dear, integer_cost=Cost(node=55), free_behind=())
    assert placed(text, replace(TARGET, fusions=(CONV, bound)), **WEIGHT)[0] == ["a", "b", "y"]
    free = replace(bound, free_behind=("Conv",))
    assert placed(text, replace(TARGET, fusions=(CONV, free)), **WEIGHT)[0] == ["a", "b"]


@pytest.mark.parametrize(("others", "expected"), [(700, ["a", "y"]), (900, ["a"])])
def test_a_gain_of_next_to_nothing_is_not_worth_rounding(others: int, expected: list[str]) -> None:
    """The second product gains 100 - 40 - 20 = 40 ns, against what the first takes."""
    first = replace(CONV, depthwise=True, float_cost=Cost(output=others), integer_cost=Cost(node=1))
    text = """g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
        a = Conv <group=4> (x, v) e = Erf(a) y = Conv(e, w) }"""
    target = replace(TARGET, fusions=(CONV, first))
    assert placed(text, target, w=(4, 4, 1, 1), v=(4, 1, 1, 1))[0] == expected


def test_layouts_are_paid_between_blocked_kernels() -> None:
    """The last of two is not worth leaving its layout for; at the end of the graph nothing is left."""
    small = replace(CONV, attributes={"group": 1})
    text = "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Conv(x, w) y = Conv <group=2> (a, v) }"
    weights = {**WEIGHT, "v": (4, 2, 1, 1)}
    free = replace(TARGET, fusions=(small,))
    assert placed(text, free, **weights)[0] == ["a"]
    for layout in ("float_layout", "integer_layout"):
        assert placed(text, replace(free, **{layout: Cost(node=50)}), **weights)[0] == []
    bias = {**WEIGHT, "b": (1, 4, 1, 1)}
    text = "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Conv(x, w) y = Add(a, b) }"
    assert placed(text, replace(free, fusions=(small, ADD), float_layout=Cost(node=50)), **bias)[0] == ["a"]
    text = "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Conv(x, w) y = Erf(a) }"
    assert placed(text, replace(free, float_layout=Cost(node=50)), **WEIGHT)[0] == ["a"]


def test_without_costs_everything_with_a_weight_is_taken() -> None:
    rules = replace(
        TARGET,
        measured=False,
        fusions=tuple(replace(f, float_cost=Cost(), integer_cost=Cost()) for f in TARGET.fusions),
    )
    text = """g (float[1,4,8,8] x) => (float[1,4,8,8] y, float[1,4,8,8] z) {
        a = Conv(x, w) b = Conv(a, w) s = Add(a, b) y = Conv(s, w) e = Erf(x) z = Add(e, x) }"""
    assert placed(text, rules, **WEIGHT)[0] == ["a", "b", "s", "y"]
    text = "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Conv(x, w) y = Sigmoid(a) }"
    assert placed(text, rules, **WEIGHT)[0] == ["a"], "no conversion is saved by the sigmoid"


@pytest.mark.parametrize("costs", list(itertools.product((5, 45), (5, 45), (5, 120))))
def test_a_placement_is_the_cheapest_of_all(costs: tuple[int, int, int]) -> None:
    """Brute force over every choice, conversions counted by hand."""
    quantize, dequantize, integer = costs
    text = """g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
        a = Conv(x, w) e = Erf(a) b = Conv(e, w) y = Conv(b, w) }"""
    target = replace(
        TARGET,
        fusions=(replace(CONV, integer_cost=Cost(node=integer)),),
        quantize=Cost(node=quantize),
        dequantize=Cost(node=dequantize),
    )

    def price(a: bool, b: bool, y: bool) -> int:
        total = sum(integer if chosen else 100 for chosen in (a, b, y))
        total += (quantize + dequantize) * a  # between floats on both sides
        return total + (quantize + dequantize) * (b or y)  # one island, whichever of the two is in it

    best = min(itertools.product((False, True), repeat=3), key=lambda choice: price(*choice))
    names, placement = placed(text, target, **WEIGHT)
    chosen = tuple(name in names for name in ("a", "b", "y"))
    assert price(*chosen) == price(*best)
    for node, reason in placement.reasons.items():
        assert node.op_type == "Conv" and "would not pay: 0.1 us in float" in reason


@pytest.mark.parametrize(
    ("group", "weight", "name"),
    [(1, (32, 32, 3, 3), "Conv"), (32, (32, 1, 3, 3), "Conv, depthwise"), (4, (32, 8, 3, 3), None)],
)
def test_depthwise_convolutions_are_told_apart(group: int, weight: tuple[int, ...], name: str | None) -> None:
    text = f"g (float[1,32,8,8] x) => (float[o,p,q,r] y) {{ y = Conv <group={group}> (x, w) }}"
    model = built(text, w=weight)
    units, reasons = find_units(model.graph, load_target())
    assert [unit.fusion.name for unit in units] == ([name] if name else [])
    assert name is not None or list(reasons.values()) == ["group=4: QLinearConv pays at 1 only"]
