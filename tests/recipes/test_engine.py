"""The engine takes back exactly the pass that broke its promise, and keeps what the others did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.errors import OptionError, PassError, VerificationError
from onnxslim.passes.base import Pass, Promise
from onnxslim.recipes.engine import Repeat, run_steps
from tests import models

X = np.linspace(-2, 2, 6, dtype=np.float32)
GRAPH = "g (float[6] x) => (float[6] y) { a = Relu(x) b = Neg(a) y = Abs(b) }"


def verifier(reference: ir.Model, candidate: ir.Model, promise: Promise) -> str | None:
    want, got = models.run(reference, {"x": X}), models.run(candidate, {"x": X})
    return None if all(map(models.bit_equal, want, got)) else "y differs"


@dataclass(frozen=True)
class Swap(Pass):
    """Turns every operator ``old`` into ``new``."""

    name: ClassVar[str] = "swap"
    old: str = "Abs"
    new: str = "Abs"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        hits = [node for node in model.graph if node.op_type == self.old]
        for node in hits:
            node.op_type = self.new
            self.decline(node.name or self.old, "swapped")
        return ir.passes.PassResult(model, bool(hits))


@dataclass(frozen=True)
class Raises(Pass):
    name: ClassVar[str] = "raises"
    error: type[Exception] = ValueError

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        model.graph[0].op_type = "Sigmoid"  # half done when it fails
        raise self.error("broken")


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_the_wrong_pass_is_found_and_the_others_stay() -> None:
    good_1 = Swap("Abs", "Neg")  # |-relu(x)| == -(-relu(x)), exact
    bad = Swap("Relu", "Sigmoid")
    good_2 = Swap("Missing", "Relu")
    original = models.model(GRAPH)
    outcome = run_steps(original, (good_1, bad, good_2), verifier)
    assert ops(outcome.model) == ["Relu", "Neg", "Neg"]
    assert [a.rolled_back is not None for a in outcome.applied] == [False, True, False]
    assert [a.modified for a in outcome.applied] == [True, False, False]
    assert ops(original) == ["Relu", "Neg", "Abs"], "the caller's model was changed"


def test_several_wrong_passes_are_all_taken_back() -> None:
    steps = (Swap("Relu", "Exp"), Swap("Abs", "Neg"), Swap("Neg", "Sin"))
    outcome = run_steps(models.model(GRAPH), steps, verifier)
    assert ops(outcome.model) == ["Relu", "Neg", "Neg"]
    assert [a.rolled_back is not None for a in outcome.applied] == [True, False, True]
    assert len(outcome.declined) == 1, "declines of taken-back passes must not be reported"


def test_a_pass_that_raises_is_rolled_back_whole() -> None:
    outcome = run_steps(models.model(GRAPH), (Raises(), Swap("Abs", "Neg")), verifier)
    assert ops(outcome.model) == ["Relu", "Neg", "Neg"]
    assert outcome.applied[0].rolled_back == "raised ValueError: broken"


@dataclass(frozen=True)
class Dangles(Pass):
    """Leaves a reader of a value that nobody computes any more."""

    name: ClassVar[str] = "dangles"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        node = model.graph[0]
        model.graph.remove(node)  # its output is still read
        return ir.passes.PassResult(model, True)


def test_a_pass_that_breaks_the_graph_is_taken_back_even_unverified() -> None:
    outcome = run_steps(models.model(GRAPH), (Swap("Abs", "Neg"), Dangles()))
    assert ops(outcome.model) == ["Relu", "Neg", "Neg"]
    assert outcome.applied[1].rolled_back == "the graph is broken: 'a' is used, but not defined before"


def test_the_users_own_mistakes_are_not_swallowed() -> None:
    with pytest.raises(OptionError):
        run_steps(models.model(GRAPH), (Raises(OptionError),), verifier)


def test_passes_that_undo_each_other_are_named() -> None:
    steps = (Repeat((Swap("Relu", "Exp"), Swap("Exp", "Relu"), Swap("Missing", "Relu")), max_rounds=5),)
    with pytest.raises(PassError, match=r"swap, swap$|swap, swap\n"):
        run_steps(models.model(GRAPH), steps)


def test_a_repeat_stops_when_a_round_changes_nothing() -> None:
    outcome = run_steps(models.model(GRAPH), (Repeat((Swap("Neg", "Cos"), Swap("Abs", "Neg"))),))
    assert ops(outcome.model) == ["Relu", "Cos", "Cos"]


def test_an_original_that_never_equals_itself_is_an_error() -> None:
    with pytest.raises(VerificationError):
        run_steps(models.model(GRAPH), (Swap("Abs", "Neg"),), lambda *_: "always different")


def test_declines_reach_the_outcome() -> None:
    outcome = run_steps(models.model(GRAPH), (Swap("Abs", "Neg"),))
    assert [(d.pass_name, d.reason) for d in outcome.declined] == [("swap", "swapped")]
