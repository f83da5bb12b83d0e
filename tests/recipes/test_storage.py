"""How weights are stored: the noise that is measured, and what is chosen by it."""

from __future__ import annotations

import itertools

import numpy as np
import onnx.numpy_helper
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.model.io import serialized_size
from onnxslim.passes.codebook_weights import CodebookWeights
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.storage import EIGHT_BITS, Offer, Storage, _lifted, _Noise, allocate, inputs_of_weights
from onnxslim.runtime.client import open_worker
from tests.models import proto, run

Feeds = list[dict[str, np.ndarray]]


def network(ir_version: int = 10) -> ir.Model:
    """The last product is of a hundredth of the size of what passes it by."""
    source = proto(
        """g (float[n,64] x) => (float[n,64] y) {
            a = MatMul(x, loud) r = Relu(a) b = MatMul(r, quiet) c = MatMul(x, tiny) d = MatMul(c, back)
            s = Add(b, d) y = Add(a, s) }""",
        ir_version=ir_version,
    )
    rng = np.random.default_rng(0)
    for name, shape, size in (
        ("loud", (64, 64), 1),
        ("quiet", (64, 64), 0.01),
        ("tiny", (64, 40), 0.1),
        ("back", (40, 64), 0.1),
    ):
        array = (rng.normal(size=shape) * size).astype(np.float32)
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(source)


def feeds(count: int) -> Feeds:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(8, 64)).astype(np.float32)} for _ in range(count)]


FORMS = (PackWeights(bits=4, block=32), *EIGHT_BITS)


def decoded(model: ir.Model, storage: Storage, sqnr_db: float) -> float:
    """Noise over signal of the model that is stored at that level, in the runtime."""
    data = storage.feeds
    wanted = np.concatenate([run(model, feed)[0] for feed in data]).astype(np.float64)
    stored = run_steps(model, storage.steps(sqnr_db)).model
    found = np.concatenate([run(stored, feed)[0] for feed in data])
    return float(np.square(found - wanted).sum() / np.square(wanted).sum())


@pytest.mark.parametrize("ir_version", [3, 10])
def test_noise_is_that_of_the_model_with_this_one_weight_rounded(ir_version: int) -> None:
    model, data = network(ir_version), feeds(3)
    before = ir.to_proto(model).SerializeToString()
    stored = [form.stored(model) for form in FORMS]
    with open_worker() as worker, worker.load(_lifted(model, list(stored[0]))) as session:
        noise = _Noise(session, data, 16)
        offers = {name: Storage(model, data, FORMS)._offers([name], stored, noise) for name in stored[0]}
    assert ir.to_proto(model).SerializeToString() == before
    wanted = [run(model, feed)[0].astype(np.float64) for feed in data]
    for number, form in enumerate(FORMS[:3]):
        for name, stored in form.stored(model).items():
            changed = model.clone()
            edit.replace_initializer(changed.graph.initializers[name], stored.decode())
            found = [run(changed, feed)[0] for feed in data]
            ratios = [np.square(b - a).sum() / np.square(a).sum() for a, b in zip(wanted, found, strict=True)]
            expected = np.prod(ratios) ** (1 / len(ratios))
            offer = next(offer for offer in offers[name] if offer.form == number)
            assert offer.noise == pytest.approx(expected, rel=1e-3) and offer.nbytes == stored.nbytes
    assert offers["loud"][0].noise > 100 * offers["quiet"][0].noise


@pytest.mark.parametrize("level", [15.0, 25.0, 35.0, 45.0, 60.0])
def test_a_level_is_kept_and_costs_bytes(level: float) -> None:
    model = network()
    storage = Storage(model, feeds(4), FORMS)
    assert decoded(model, storage, level) <= 1.001 * 10 ** (-level / 10)
    smaller = run_steps(model, storage.steps(level - 10)).model
    assert serialized_size(smaller) <= serialized_size(run_steps(model, storage.steps(level)).model)


def test_the_quiet_weight_is_the_first_to_have_few_bits() -> None:
    storage = Storage(network(), feeds(4), FORMS)
    narrow = [each.only for each in storage.steps(28) if isinstance(each, PackWeights) and each.bits == 4]
    assert len(narrow) == 1 and "quiet" in narrow[0] and "loud" not in narrow[0]


def test_codebooks_are_a_form() -> None:
    model = network()
    storage = Storage(model, feeds(4), (CodebookWeights(per="tensor"), *EIGHT_BITS))
    assert decoded(model, storage, 25) <= 1.001 * 10 ** (-25 / 10)
    [books] = [step for step in storage.steps(25) if isinstance(step, CodebookWeights)]
    result = run_steps(model, storage.steps(25)).model
    assert {name for name in result.graph.initializers if name.endswith("_t")} == {
        f"{n}_t" for n in books.only
    }


def test_without_feeds_all_have_the_smallest_form() -> None:
    model = network()
    result = run_steps(model, Storage(model, (), FORMS).steps(30)).model
    assert [node.op_type for node in result.graph].count("BitShift") == 4


def test_a_large_model_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """All forms of all weights beside each other, and weights sent to and fro, have their limit."""
    model = network()
    monkeypatch.setattr("onnxslim.recipes.storage._WEIGHTS_BYTES", 4 * 64 * 64)
    monkeypatch.setattr("onnxslim.recipes.storage.open_worker", None)  # would fail
    storage = Storage(model, feeds(2), FORMS)
    assert storage.knee(20, 40) == 20
    result = run_steps(model, storage.steps(30)).model
    assert [node.op_type for node in result.graph].count("BitShift") == 4


def test_a_vector_is_halved_at_any_level() -> None:
    model = network()
    bias = edit.add_initializer(model.graph, np.random.default_rng(0).normal(size=64).astype("f"), "bias")
    last = model.graph.outputs[0].producer()
    assert last is not None
    last.replace_input_with(1, bias)
    storage = Storage(model, feeds(2), EIGHT_BITS)
    stored = run_steps(model, storage.steps(20)).model.graph.initializers
    kinds = {value.const_value.dtype.name for name, value in stored.items() if name.startswith("bias")}  # type: ignore[union-attr]
    assert kinds == {"FLOAT16"}


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=3), max_size=4)
)
def test_allocation_is_within_one_exchange_of_the_best(weights: list[list[tuple[int, int]]]) -> None:
    offers = [
        [Offer(k, float(size), noise / 100) for k, (size, noise) in enumerate(each)] for each in weights
    ]
    everything = list(itertools.product(*offers))
    for level in (10.0, 13.0, 20.0):
        allowed = 10 ** (-level / 10)
        found = allocate(offers, level)
        inside = [sum(o.nbytes for o in row) for row in everything if sum(o.noise for o in row) <= allowed]
        if not inside:
            least = min(sum(o.noise for o in row) for row in everything)
            assert sum(o.noise for o in found) == pytest.approx(least)
            continue
        assert sum(o.noise for o in found) <= allowed + 1e-12
        largest = max((o.nbytes for each in offers for o in each), default=0.0)
        assert min(inside) <= sum(o.nbytes for o in found) <= min(inside) + largest


def test_a_cleaner_level_is_taken_where_it_costs_next_to_nothing() -> None:
    storage = Storage(network(), feeds(2), FORMS)
    level = storage.knee(20, 40)
    assert 20 <= level <= 40
    assert storage._plan(level).nbytes <= 1.02 * storage._plan(20).nbytes
    assert level == 40 or storage._plan(level + 1).nbytes > 1.02 * storage._plan(20).nbytes


def test_moments_are_asked_for_where_weights_are_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = network(), feeds(2)
    calibration = inputs_of_weights(model, data)
    assert calibration is not None and set(calibration.states) == {"x", "r", "c"}
    x = np.concatenate([feed["x"] for feed in data]).astype(np.float64)
    np.testing.assert_allclose(calibration.second_moments("x"), x.T @ x / len(x))
    monkeypatch.setattr("onnxslim.recipes.storage._MOMENTS_BYTES", 8 * 64**2)
    limited = inputs_of_weights(model, data)
    assert limited is not None and len(limited.states) == 1
    assert (
        inputs_of_weights(ir.from_proto(proto("g (float[2] x) => (float[2] y) { y = Relu(x) }")), []) is None
    )
