"""Targets as data: they load, and name operators and kernels that exist."""

from __future__ import annotations

import onnx.defs
import pytest

from onnxslim.errors import OptionError
from onnxslim.ops.registry import all_specs
from onnxslim.runtime.targets.target import Cost, load_target, target_names


@pytest.mark.parametrize("name", target_names())
def test_a_target_is_consistent(name: str) -> None:
    target = load_target(name)
    assert target.name == name and target.runtime and target.machine
    for op_type, fusion in target.fusions.items():
        assert fusion.op_type == op_type and onnx.defs.has(op_type)
        assert all_specs()["", op_type].quant is not None, "the planner would not see it"
        assert fusion.output in ("quantized", "float", "same")
        assert all(onnx.defs.has(name) for name in (*fusion.activations, *fusion.biases))
        assert fusion.source and fusion.float_cost != Cost() and fusion.integer_cost != Cost()


def test_costs_are_the_larger_of_arithmetic_and_memory() -> None:
    cost = Cost(node=1, mac=2, tap=3, weight=4, output=5)
    assert cost.of(macs=10, taps=1, weights=1, outputs=1) == 1 + 20 + 3 + 5
    assert cost.of(macs=1, weights=10) == 1 + 40


def test_unknown_target() -> None:
    with pytest.raises(OptionError, match="no target 'abacus'"):
        load_target("abacus")
