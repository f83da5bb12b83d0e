"""Steps that stay below a limit of memory, and that their gradients are those of the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from onnxslim.analysis.memory import memory
from onnxslim.distillation._facts import Refined
from onnxslim.distillation.engine import Engine
from onnxslim.distillation.losses import plan_terms, target_name
from onnxslim.distillation.pieces import pieces
from onnxslim.distillation.students import find_student
from onnxslim.errors import ResourceError
from onnxslim.runtime.client import Worker, open_worker
from tests.distillation.nets import deep, rows

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with open_worker() as found:
        yield found


def engine(worker: Worker, limit: int | None, *, unit: int = 1, labelled: bool = True) -> Engine:
    student, teacher = deep(0.1), deep()
    terms = plan_terms(student, teacher, labelled=labelled)
    found = Engine(worker, find_student(worker, student), teacher, terms, limit=limit, rows=unit)
    found.weights.update({term.name: 1.0 + number for number, term in enumerate(terms)})
    return found


def step(found: Engine, x: Array) -> tuple[float, dict[str, Array]]:
    said = found.other.run({"x": x})
    targets = {target_name(term): said[term.target] for term in found.terms if term.kind != "cross-entropy"}
    targets |= {
        target_name(term): np.arange(len(x)) % 4 for term in found.terms if term.kind == "cross-entropy"
    }
    return found.step({"x": x}, targets, {name: form.value() for name, form in found.student.forms.items()})


@pytest.mark.parametrize("count", [32, 31])
def test_parts_of_a_batch_add_up_to_its_gradients(worker: Worker, count: int) -> None:
    x, whole, parted = rows(count), engine(worker, None), engine(worker, 30_000)
    assert 1 < parted.plan({"x": x}) < 16 and whole.plan({"x": x}) == count
    (loss, expected), (other, found) = step(whole, x), step(parted, x)
    assert other == pytest.approx(loss, rel=1e-5) and set(found) == set(expected)
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-4, atol=1e-6 * np.abs(gradient).max())


def test_no_step_takes_more_than_it_may(worker: Worker) -> None:
    """As the analysis of memory counts it, and one sample more would take more."""
    x = rows(32)
    sizes = []
    for limit in (26_000, 34_000, 50_000):
        found = engine(worker, limit, labelled=False)
        sizes.append(found.plan({"x": x}))
        model = found._gradient({"x": x[: sizes[-1]]}, {}, {}).model
        told = memory(model, Refined(model))
        assert told.peak is not None and told.peak <= limit  # all sizes are known
        following = found._gradient({"x": x[: sizes[-1] + 1]}, {}, {}).model
        assert memory(following, Refined(following)).at_least > limit  # and no more would fit
    assert sizes == sorted(set(sizes))


def test_what_one_sample_needs_must_be_allowed(worker: Worker) -> None:
    with pytest.raises(ResourceError, match="for one sample, more than the"):
        engine(worker, 5_000).plan({"x": rows(32)})
    with pytest.raises(ResourceError):  # nothing says where a sample ends
        engine(worker, 30_000, unit=0).plan({"x": rows(32)})


def test_samples_of_several_rows_stay_whole(worker: Worker) -> None:
    found = engine(worker, 30_000, unit=4)
    size = found.plan({"x": rows(32)})
    assert 1 <= size < 8
    shares = [len(part["x"]) for _, part in pieces({"x": rows(32)}, 8, size)]
    assert sum(shares) == 32 and all(share % 4 == 0 for share in shares)
