"""Merged channels: copies cost nothing, mixing is that of the rows, and it composes with pruning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import onnxslim
from onnxslim._ir import ir
from onnxslim.analysis.channels import find_groups
from onnxslim.cli import main
from onnxslim.model.edit import constant_value
from onnxslim.recipes.pruning.apply import pruned
from onnxslim.recipes.pruning.criteria import criterion
from onnxslim.recipes.pruning.evidence import Evidence, Weights
from onnxslim.recipes.pruning.merging import Into, mixed
from onnxslim.recipes.pruning.observe import observe
from onnxslim.runtime.client import open_worker
from tests.models import proto, run
from tests.recipes.pruning.nets import COPIES, feeds, small_net

PLAIN = "g (float[n,12] x) => (float[n,5] y) { h = Gemm(x, v, b) r = Relu(h) y = Gemm(r, w, c) }"


def evidence_of(model: ir.Model, *, seen: bool) -> list[Evidence]:
    weights = Weights(model)
    if seen:
        with open_worker() as worker:
            weights.seen = observe(worker, model, feeds(24), list(weights.products.values()))
    return [weights.evidence(group) for group in find_groups(model).groups]


def merged(model: ir.Model, removal: dict[str, tuple[int, ...]], into: Into, *, seen: bool) -> ir.Model:
    channels = find_groups(model)
    return pruned(model, channels, removal, merges=into, evidence=evidence_of(model, seen=seen)).model


def off(model: ir.Model, other: ir.Model) -> float:
    pairs = [(run(model, feed)[0], run(other, feed)[0]) for feed in feeds(6)]
    lost = sum(float(np.sum((a - b) ** 2)) for a, b in pairs)
    return float(np.sqrt(lost / sum(float(np.sum(a**2)) for a, _ in pairs)))


@pytest.mark.parametrize("into", ["many", "one"])
def test_copies_go_without_a_loss(into: Into) -> None:
    """Through an activation and a depthwise convolution, in a product without a bias."""
    model = small_net()
    key = next(g.key for g in find_groups(model).groups if any(m.value == "w1" for m in g.members))
    found = merged(model, {key: COPIES}, into, seen=True)
    assert constant_value(found.graph.initializers["w3"]).shape[1] == 8  # type: ignore[union-attr]
    assert off(model, found) < 0.02
    bare = pruned(model, find_groups(model), {key: COPIES}).model
    assert off(model, bare) > 0.2, "it is the mixing that does it"
    score = criterion("merge" if into == "many" else "merge-pairs")
    [evidence] = [e for e in evidence_of(model, seen=True) if e.group.key == key]
    order = np.argsort(score.score(evidence, np.random.default_rng(0)))
    assert {int(at) % 8 for at in order[:8]} == set(range(8)), "one of each pair goes first"


@pytest.mark.parametrize("into", ["many", "one"])
def test_copies_are_known_by_their_weights(into: Into) -> None:
    """Without data: multiples of one another, with their biases, behind an activation."""
    random = np.random.default_rng(0)
    v, b = random.normal(size=(12, 8)), random.normal(size=8)
    factors = np.array([1, 2, 0.5, 3])
    source = proto(PLAIN)
    tensors = {
        "v": np.concatenate([v, v[:, :4] * factors], axis=1),
        "b": np.concatenate([b, b[:4] * factors]),
        "w": random.normal(size=(12, 5)),
        "c": random.normal(size=5),
    }
    for name, array in tensors.items():
        source.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    model = ir.from_proto(source)
    [group] = find_groups(model).groups
    [evidence] = evidence_of(model, seen=False)
    score = criterion("merge" if into == "many" else "merge-pairs").score(evidence, random)
    gone = tuple(int(at) for at in np.argsort(score)[:4])
    assert {at if at < 8 else at - 8 for at in gone} == {0, 1, 2, 3}
    found = merged(model, {group.key: gone}, into, seen=False)
    x = {"x": random.normal(size=(64, 12)).astype(np.float32)}
    [one], [other] = run(model, x), run(found, x)
    # sums are damped, a multiple is exact
    assert np.linalg.norm(one - other) < (0.02 if into == "many" else 1e-5) * np.linalg.norm(one)


def test_mixing_is_the_regression_of_the_channels() -> None:
    """Of a product whose rows are known, against least squares on the rows."""
    random = np.random.default_rng(0)
    source = proto(PLAIN)
    shapes = {"v": (12, 8), "b": (8,), "w": (8, 5), "c": (5,)}
    tensors = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, array in tensors.items():
        source.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(source)
    rows = [{"x": random.normal(size=(50, 12)).astype(np.float32)} for _ in range(20)]
    weights = Weights(model)
    with open_worker() as worker:
        weights.seen = observe(worker, model, rows, list(weights.products.values()))
    [group] = find_groups(model).groups
    [(_, weight)] = mixed(weights.evidence(group), [2, 5], "many")
    x = np.concatenate([feed["x"] for feed in rows]).astype(np.float64)
    r = np.maximum(x @ tensors["v"] + tensors["b"], 0)
    kept = [0, 1, 3, 4, 6, 7]
    known = np.concatenate([r[:, kept], np.ones((len(r), 1))], axis=1)
    mixing = np.linalg.lstsq(known, r[:, [2, 5]], rcond=None)[0]
    wanted = tensors["w"][kept] + mixing[:-1] @ tensors["w"][[2, 5]]
    np.testing.assert_allclose(weight[0, kept], wanted, atol=0.02)
    np.testing.assert_allclose(weight[0, 8], mixing[-1] @ tensors["w"][[2, 5]], atol=0.05)
    assert not weight[0, [2, 5]].any()


def test_it_composes_with_pruning() -> None:
    model = small_net()
    calibration = feeds(24)
    merging = onnxslim.prune(model, calibration, criterion="merge", ratio=0.5, reconstruct=False, multiple=4)
    plain = onnxslim.prune(model, calibration, criterion="l2", ratio=0.5, reconstruct=False, multiple=4)
    both = onnxslim.prune(model, calibration, criterion="merge", ratio=0.5, multiple=4)
    assert off(model, merging.model) < 0.5 * off(model, plain.model)
    assert off(model, both.model) <= 1.05 * off(model, merging.model)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")
    onnx.save(ir.to_proto(small_net()), source)
    np.savez(tmp_path / "data.npz", x=np.concatenate([feed["x"] for feed in feeds(40)]))
    data = ("--data", str(tmp_path / "data.npz"), "--json", "--force")
    assert main(["share", source, "-o", target, "--merge-neurons", "0.4", *data]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["after"]["macs"] < found["before"]["macs"]
    assert any("channels are merged into others" in note for note in found["notes"])
    assert main(["share", source, "-o", target, "--merge-neurons", "error=0.01", *data]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any("16 of 49 channels are merged" in note for note in notes), notes
    for wrong in ("1.5", "error=x", "many"):
        assert main(["share", source, "-o", target, "--merge-neurons", wrong, *data]) == 2
        assert "error=0.05" in json.loads(capsys.readouterr().out)["error"]["hint"]
