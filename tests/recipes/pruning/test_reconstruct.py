"""What can be made good is made good: copies of channels go without a trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx.numpy_helper
import pytest

from onnxslim._ir import ir
from onnxslim.analysis.channels import find_groups
from onnxslim.analysis.linears import products_of
from onnxslim.model.edit import constant_value, replace_initializer
from onnxslim.recipes.pruning.apply import kept_outputs, pruned
from onnxslim.recipes.pruning.reconstruct import reconstruct
from onnxslim.recipes.pruning.rows import row_feed
from onnxslim.runtime.client import open_worker
from tests.models import proto, run
from tests.recipes.pruning.nets import COPIES, feeds, small_net


def error(a: ir.Model, b: ir.Model) -> float:
    """Noise over signal on inputs that nothing was fitted to."""
    pairs = [(run(a, feed)[0], run(b, feed)[0]) for feed in feeds(20, seed=99)]
    return float(sum(((x - y) ** 2).sum() for x, y in pairs) / sum((x**2).sum() for x, _ in pairs))


def group_of(model: ir.Model, weight: str) -> str:
    return next(g.key for g in find_groups(model).groups if any(m.value == weight for m in g.members))


def with_arrays(text: str, arrays: Mapping[str, Any]) -> ir.Model:
    made = proto(text)
    for name, array in arrays.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, np.float32), name))
    return ir.from_proto(made)


def test_copies_are_removed_without_loss() -> None:
    model = small_net()
    channels, removal = find_groups(model), {group_of(model, "w1"): COPIES}
    with open_worker() as worker:
        fitted = pruned(model, channels, removal, worker=worker, feeds=feeds(64))
    bare = pruned(model, channels, removal)
    assert error(model, bare.model) > 0.01
    assert error(model, fitted.model) < 1e-8
    names = {each.name for each in fitted.refitted if each.damping is not None}
    assert "c3" in names  # what reads the channels


def test_what_cannot_be_made_good_gets_better() -> None:
    model = small_net()
    channels, removal = find_groups(model), {group_of(model, "w1"): tuple(range(5))}
    with open_worker() as worker:
        fitted = pruned(model, channels, removal, worker=worker, feeds=feeds(64))
    assert error(model, fitted.model) < 0.5 * error(model, pruned(model, channels, removal).model)
    assert all(each.after <= each.before or np.isnan(each.before) for each in fitted.refitted)


def test_an_unpruned_model_is_left_alone() -> None:
    model = small_net()
    copy = model.clone()
    with open_worker() as worker:
        reconstruct(worker, model, copy, feeds(32), {})
    assert error(model, copy) < 1e-10


def test_depthwise_filters_are_fitted_too() -> None:
    """Halve one: its scale can only be restored in that product or behind it."""
    model = small_net()
    copy = model.clone()
    value = copy.graph.initializers["w2"]
    weight = constant_value(value)
    assert weight is not None
    replace_initializer(value, (weight * 0.5).astype(np.float32))
    with open_worker() as worker:
        found = reconstruct(worker, model, copy, feeds(64), {})
    assert error(model, copy) < 1e-8
    assert next(each for each in found if each.name == "c2").after < 1e-8


def test_a_transposed_convolution_stands_in_for_copies() -> None:
    random = np.random.default_rng(0)
    first = random.normal(size=(8, 2, 3, 3)).astype(np.float32)
    first[4:] = 2 * first[:4]
    model = with_arrays(
        """g (float[n,2,6,6] x) => (float[n,3,p,q] y)
        { c = Conv(x, w)  r = Relu(c)  y = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1]>(r, v, b) }""",
        {"w": first, "v": random.normal(size=(8, 3, 3, 3)), "b": np.ones(3)},
    )
    channels, removal = find_groups(model), {group_of(model, "w"): (4, 5, 6, 7)}
    with open_worker() as worker:
        fitted = pruned(model, channels, removal, worker=worker, feeds=feeds(32))
    assert error(model, pruned(model, channels, removal).model) > 0.1
    assert error(model, fitted.model) < 1e-8


@pytest.mark.parametrize(
    ("norm", "extra"),
    [
        ("LayerNormalization(x, s, b)", {}),
        ("BatchNormalization(x, s, b, m, v)", {"m": [0.5] * 6, "v": [2.0] * 6}),
        ("InstanceNormalization(x, s, b)", {}),
    ],
)
def test_normalisations_are_fitted_too(norm: str, extra: dict[str, list[float]]) -> None:
    """With another scale, bias and stored statistics; what it gave can be given again."""
    model = with_arrays(
        f"g (float[n,6,6] x) => (float[n,6,6] y) {{ a = {norm}  y = Relu(a) }}",
        {"s": np.arange(1.0, 7.0), "b": np.linspace(-1, 1, 6), **extra},
    )
    copy = model.clone()
    for value in copy.graph.initializers.values():
        stored = constant_value(value)
        assert stored is not None
        replace_initializer(value, (0.5 * stored + 0.3).astype(np.float32))
    random = np.random.default_rng(1)
    given = [{"x": random.normal(size=(1, 6, 6)).astype(np.float32)} for _ in range(32)]
    with open_worker() as worker:
        [found] = reconstruct(worker, model, copy, given, {})
    assert found.name == "a" and found.before > 0.01 and found.after < 1e-8
    np.testing.assert_allclose(run(copy, given[0])[0], run(model, given[0])[0], atol=1e-4)


def test_a_normalisation_whose_channels_went_is_fitted_to_those_that_stay() -> None:
    random = np.random.default_rng(0)
    shapes = {"w": (8, 2, 3, 3), "s": (8,), "b": (8,), "m": (8,), "v": (8,), "u": (3, 8, 1, 1)}
    model = with_arrays(
        """g (float[n,2,6,6] x) => (float[n,3,p,q] y)
        { c = Conv(x, w)  r = Relu(c)  a = BatchNormalization(r, s, b, m, v)
          e = Relu(a)  y = Conv(e, u) }""",
        {name: random.uniform(0.5, 1.5, shape) for name, shape in shapes.items()},
    )
    kept = kept_outputs(model, find_groups(model), {group_of(model, "w"): (0, 3)})
    assert set(kept) == {"c", "a"} and kept["a"].tolist() == [1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize(("layer", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("outputs", ["s", "s, last", ", last"])
def test_units_of_a_recurrent_layer_stand_in_for_their_copies(layer: str, gates: int, outputs: str) -> None:
    """Units 4 to 7 get what 0 to 3 get, in both directions, so those can feed back for both."""
    random = np.random.default_rng(0)
    arrays = {
        "w": random.normal(size=(2, gates, 8, 3)),
        "r": random.normal(size=(2, gates, 8, 8)) / 4,
        "b": random.normal(size=(2, 2 * gates, 8)) / 4,
        "v": random.normal(size=(8, 2)),
    }
    for name in ("w", "r", "b"):
        arrays[name][:, :, 4:] = arrays[name][:, :, :4]
        arrays[name] = arrays[name].reshape(2, -1, *arrays[name].shape[3:])
    source = "last" if "last" in outputs else "s"
    model = with_arrays(
        f"""g (float[5,n,3] x) => (y) {{
        {outputs} = {layer}<hidden_size = 8, direction = "bidirectional">(x, w, r, b)
        y = MatMul({source}, v) }}""",
        arrays,
    )
    given = [{"x": random.normal(size=(5, 1, 3)).astype(np.float32)} for _ in range(48)]
    channels, removal = find_groups(model), {group_of(model, "r"): (4, 5, 6, 7)}
    with open_worker() as worker:
        fitted = pruned(model, channels, removal, worker=worker, feeds=given)
    bare = pruned(model, channels, removal)
    wanted, without, found = (run(each, given[0])[0] for each in (model, bare.model, fitted.model))
    assert np.abs(wanted - without).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert fitted.refitted[0].name == "r" and fitted.refitted[0].after < 1e-8


def test_kept_outputs_are_what_stays() -> None:
    model = small_net()
    kept = kept_outputs(model, find_groups(model), {group_of(model, "w1"): (0, 3)})
    expected = [i for i in range(16) if i not in (0, 3)]
    assert {name: indices.tolist() for name, indices in kept.items()} == {"c1": expected, "c2": expected}


@pytest.mark.parametrize("limit", [0, 10**6])
def test_products_that_are_too_large_are_declined(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr("onnxslim.recipes.pruning.reconstruct._SUMS_BYTES", limit)
    model = small_net()
    with open_worker() as worker:
        found = reconstruct(worker, model, model.clone(), feeds(8), {})
    assert all("too many" in each.declined for each in found) == (limit == 0)


def test_of_no_products_there_is_nothing_to_run() -> None:
    """As in a model that is one If."""
    with open_worker() as worker:
        assert list(row_feed(worker, small_net(), feeds(3), [])) == [[], [], []]


def test_products_without_outputs_are_left_alone() -> None:
    text = """g (float[n,8] x) => (float[n,0] z, float[n,4] y) {
        a = MatMul(x, w1)  z = MatMul(a, w2)  y = MatMul(a, w3) }"""
    shapes = {"w1": (8, 8), "w2": (8, 0), "w3": (8, 4)}
    model = with_arrays(text, {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    assert [product.weight.name for product in products_of(model)] == ["w1", "w3"]
