"""``share`` of what is only similar, from end to end, and what all verbs leave of tied weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import onnxslim
from onnxslim._ir import ir
from onnxslim.analysis.sharing import shared_weights
from onnxslim.calibration.runner import calibrate
from onnxslim.cli import main
from onnxslim.errors import BudgetError, OptionError
from onnxslim.model.io import load
from onnxslim.passes import CodebookWeights, HalveWeights, PackWeights, QuantizeVectors
from onnxslim.passes.base import Pass
from onnxslim.recipes.engine import run_steps
from onnxslim.reconstruct.rounding import sqnr_db
from onnxslim.runtime.kernels import executed
from tests.models import run
from tests.recipes.test_share import HIDDEN, WORDS, language_model, made, normal, stored


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are not what is tested here."""
    monkeypatch.setattr("onnxslim.recipes.opened._LATENCY_S", 0.2)


def network(error: float = 0.0, seed: int = 5) -> onnx.ModelProto:
    """Two layers whose weights are multiples of each other, up to an error."""
    random = np.random.default_rng(seed)
    first = normal(48, 48)
    noise = random.normal(size=first.shape).astype(np.float32)
    second = -0.7 * first + error * noise * np.linalg.norm(0.7 * first) / np.linalg.norm(noise)
    nodes = [
        oh.make_node("MatMul", ["x", "v"], ["a"]),
        oh.make_node("Tanh", ["a"], ["b"]),
        oh.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    return made(nodes, {"x": [4, 48]}, [4, 48], {"v": first, "w": second.astype(np.float32)})


def feeds(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(size=(4, 48)).astype(np.float32)} for _ in range(count)]


def noise(model: onnx.ModelProto, other: ir.Model) -> float:
    feed = feeds(1, seed=77)[0]
    return sqnr_db(run(model, feed)[0], run(other, feed)[0])


def test_a_tolerance_binds_weights_and_outputs() -> None:
    model = network(3e-4)
    result = onnxslim.share(model, feeds(24), tolerance=1e-3)
    assert stored(result.to_proto()) == ["v"] or stored(result.to_proto()) == ["w"]
    assert result.report.ratio("bytes") < 0.6
    assert noise(model, result.model) > 60, "no output is off by more than the tolerance"
    assert executed(result.model).histogram == executed(model).histogram
    assert not onnxslim.share(model, feeds(24), tolerance=1e-4).model.graph.initializers.keys() - {"v", "w"}
    alone = onnxslim.share(model, feeds(24), tolerance=1e-3, scaled=False)
    assert any("nothing was similar enough" in note for note in alone.report.notes)
    assert alone.unchanged is None and stored(alone.to_proto()) == ["v", "w"]


def test_outputs_that_are_off_by_more_forbid_it() -> None:
    """The difference of two products with nearly equal weights: the weights are near, the output is not."""
    weight = normal(48, 48)
    weight[:, 0] = 1e3
    other = (weight + 1e-3 * 1e3 * normal(48, 48, 1)[:, :, 0]).astype(np.float32)
    nodes = [
        oh.make_node("MatMul", ["x", "v"], ["a"]),
        oh.make_node("MatMul", ["x", "w"], ["b"]),
        oh.make_node("Sub", ["a", "b"], ["y"]),
    ]
    model = made(nodes, {"x": [4, 48]}, [4, 48], {"v": weight, "w": other})
    result = onnxslim.share(model, feeds(24), tolerance=0.01)
    assert stored(result.to_proto()) == ["v", "w"]
    assert any(
        "nothing was accepted" in note or "nothing was similar" in note for note in result.report.notes
    )


def test_a_codebook_has_as_few_values_as_were_asked_for() -> None:
    model = network(1.0)
    for entries, least in ((4, 8), (16, 18), (256, 40)):
        result = onnxslim.share(model, feeds(24), codebook=entries)
        tables = [v for n, v in result.model.graph.initializers.items() if n.endswith("_t")]
        assert [table.const_value.size for table in tables] == [entries] * 2
        assert executed(result.model).histogram == executed(model).histogram, "decoded while it is loaded"
        assert noise(model, result.model) > least
        assert result.report.metric is not None and result.report.latency is not None


def test_the_budget_decides_which_weights_have_more_values() -> None:
    model = network(1.0)
    free = onnxslim.share(model, feeds(40), codebook=2)
    bound = onnxslim.share(model, feeds(40), codebook=2, max_drop=0.001)
    assert noise(model, bound.model) > 10 > noise(model, free.model)
    sizes = {v.const_value.size for n, v in bound.model.graph.initializers.items() if n.endswith("_t")}
    assert 256 in sizes
    with pytest.raises(BudgetError, match="more than"):
        onnxslim.share(model, feeds(40), codebook=2, max_drop=0.0, metric=f"{__name__}:spoilt")


def test_vectors_are_what_an_index_stands_for() -> None:
    """One and a half bits for a weight, and three, stored as two and four."""
    model = wide()
    for vectors, least in ((4, 4), (2, 10)):
        result = onnxslim.share(model, wide_feeds(24), codebook=64, vectors=vectors)
        tables = [v for n, v in result.model.graph.initializers.items() if n.endswith("_t")]
        assert [table.const_value.shape.numpy() for table in tables] == [(64, vectors)] * 2
        assert executed(result.model).histogram == executed(model).histogram, "decoded while it is loaded"
        [one], [other] = run(model, wide_feeds(1, 77)[0]), run(result.model, wide_feeds(1, 77)[0])
        assert sqnr_db(one, other) > least, vectors
        assert result.report.ratio("bytes") < 2 / (4 * vectors)
        assert any(f"64 vectors of {vectors}: of every weight" in note for note in result.report.notes)


def test_the_budget_decides_how_long_vectors_are() -> None:
    model = wide()
    found = {}
    for drop in (0.05, 0.0005):
        result = onnxslim.share(model, wide_feeds(40), codebook=64, vectors=4, max_drop=drop)
        assert result.report.metric is not None
        assert result.report.metric["after"] >= result.report.metric["before"] - drop
        tables = [v.const_value.shape for n, v in result.model.graph.initializers.items() if n.endswith("_t")]
        found[drop] = result.report.after["bytes"], [table.numpy() for table in tables]
    assert found[0.05][0] < found[0.0005][0]
    assert (64, 2) in found[0.05][1] and (64, 2) not in found[0.0005][1]


def test_inputs_choose_vectors_only_where_the_model_is_nearer_with_it() -> None:
    """An input that is huge and the same in every row tells nothing: what it adds is taken away again."""
    random = np.random.default_rng(0)

    def rows(count: int, huge: float) -> list[dict[str, np.ndarray]]:
        found = [random.normal(size=(64, 64)).astype(np.float32) for _ in range(count)]
        for x in found:
            x[:, ::2] = huge if huge else x[:, :1]
        return [{"x": x} for x in found]

    nodes = [
        oh.make_node("MatMul", ["x", "v"], ["a"]),
        oh.make_node("ReduceMean", ["a"], ["b"], axes=[0], keepdims=1),
        oh.make_node("Sub", ["a", "b"], ["y"]),
    ]
    model = made(nodes, {"x": [64, 64]}, [64, 64], {"v": normal(64, 64)})
    for huge in (0.0, 300.0):
        data = rows(32, huge)
        moments = [
            calibrate(model, part, tensors=["x"], second_moments=["x"]) for part in (data[:24], data[24:])
        ]
        alone = QuantizeVectors(16, 2, min_sqnr_db=0.0)
        fitted = replace(alone, inputs=moments[0], held_out=moments[1])
        forms = [run_steps(load(model), (step,)).model for step in (alone, fitted)]
        forms.append(onnxslim.share(model, data, codebook=16, vectors=2).model)
        feed = rows(1, huge)[0]
        plain, by_inputs, ours = (sqnr_db(run(model, feed)[0], run(each, feed)[0]) for each in forms)
        assert (plain > by_inputs + 1) if huge else (by_inputs > plain + 1), "each is better for once"
        assert ours > max(plain, by_inputs) - 1


def wide() -> onnx.ModelProto:
    """Two products of weights that are large enough for tables of vectors."""
    nodes = [
        oh.make_node("MatMul", ["x", "v"], ["a"]),
        oh.make_node("Tanh", ["a"], ["b"]),
        oh.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    weights = {"v": normal(64, 128), "w": normal(128, 64)}
    return made(nodes, {"x": [4, 64]}, [4, 64], weights)


def wide_feeds(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(size=(4, 64)).astype(np.float32)} for _ in range(count)]


def spoilt(path: str) -> float:
    """A metric that any change spoils, but that says nothing about outputs."""
    return float(not any(t.name.endswith("_t") for t in onnx.load(path).graph.initializer))


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")
    onnx.save(network(3e-4), source)
    np.savez(tmp_path / "data.npz", x=np.concatenate([f["x"] for f in feeds(24)]))
    options: list[str] = ["--data", str(tmp_path / "data.npz"), "--batch", "4", "--json"]
    assert main(["share", source, "-o", target, "--tolerance", "1e-3", "--codebook", "256", *options]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["output"]["bytes"] < 0.3 * found["input"]["bytes"]
    assert found["metric"]["after"] > 0.99
    assert [r["name"] for r in found["passes"] if r["modified"] and r["promise"] == "lossy"] == [
        "merge-similar-weights",
        "codebook-weights",
    ]
    for wrong, said in (
        (("--codebook", "1"), "2 to 256"),
        (("--codebook", "256", "--vectors", "3"), "2, 4 or 8"),
        (("--vectors", "4"), "--codebook 256"),
        (("--tolerance", "2"), "1e-3"),
        (("--max-drop", "1%"), "exact sharing"),
        (("--metric", "top1"), "needs no data"),
        (("--exact", "--codebook", "16"), "--exact"),
    ):
        assert main(["share", source, "-o", str(tmp_path / "no.onnx"), *wrong]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "no.onnx").exists()


def test_functions_where_they_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twin towers whose weights were exported twice; alone, and behind a codebook."""
    nodes = [
        oh.make_node(op, [first, *more], [f"{side}{at + 1}"])
        for side in ("l", "r")
        for at, (op, first, more) in enumerate(
            [
                ("MatMul", f"{side}0", [f"{side}v"]),
                ("Tanh", f"{side}1", []),
                ("MatMul", f"{side}2", [f"{side}w"]),
                ("Relu", f"{side}3", []),
            ]
        )
    ]
    nodes.append(oh.make_node("Mul", ["l4", "r4"], ["y"]))
    weights = {f"{side}v": normal(48, 48) for side in "lr"} | {
        f"{side}w": normal(49, 48)[1:] for side in "lr"
    }
    model = made(nodes, {"l0": [4, 48], "r0": [4, 48]}, [4, 48], weights)
    source, target = str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")
    onnx.save(model, source)
    assert main(["share", source, "-o", target, "--functions", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "2 parts of 4 nodes are calls of one function, part" in found["notes"]
    result = onnx.load(target)
    assert [node.op_type for node in result.graph.node] == ["part", "part", "Mul"]
    feed = {name: feeds(1, seed)[0]["x"] for seed, name in enumerate(("l0", "r0"))}
    assert np.array_equal(run(model, feed)[0], run(result, feed)[0])
    assert main(["share", source, "-o", target, "--force", "--json"]) == 0
    assert not onnx.load(target).functions, "only where it is asked for"
    both = onnxslim.share(model, codebook=16, functions=True)
    assert len(both.model.functions) == 1 and any("calls of one" in note for note in both.report.notes)


def test_options_of_passes() -> None:
    given = {"codebook-weights": {"exclude": "w"}}
    result = onnxslim.share(network(1.0), feeds(24), codebook=16, options=given)
    assert {"w", "v_q", "v_t", "v_s"} <= set(result.model.graph.initializers)
    assert any(d.node == "w" and "excluded" in d.reason for d in result.report.declined)
    with pytest.raises(OptionError, match="pack-weights"):
        onnxslim.share(network(1.0), feeds(24), codebook=16, options={"pack-weights": {}})


def test_options_in_python() -> None:
    for wrong in ({"codebook": 257}, {"tolerance": 0.0}, {"merge_neurons": 0}, {"merge_neurons": "x"}):
        with pytest.raises(OptionError):
            onnxslim.share(network(), **wrong)  # type: ignore[arg-type]


def tables(model: ir.Model) -> int:
    """How many tensors hold the table of words in whatever form."""
    size = WORDS * HIDDEN
    return sum(
        value.const_value is not None and value.const_value.size in (size, size // 2)
        for value in model.graph.initializers.values()
    )


@pytest.mark.parametrize(
    "later",
    [None, HalveWeights(), PackWeights(), CodebookWeights()],
    ids=["simplify", "fp16", "quantize", "codebook"],
)
def test_tied_weights_stay_one_tensor(later: Pass | None, tmp_path: Path) -> None:
    model = onnxslim.share(language_model()).model
    assert shared_weights(model)[0].name == "table"
    if later is not None:
        assert later(model).modified
    result = onnxslim.simplify(model)
    assert tables(result.model) == 1
    onnxslim.save(result.model, tmp_path / "out.onnx", external_data=True)
    assert tables(onnxslim.load(tmp_path / "out.onnx")) == 1


def test_tied_weights_stay_one_tensor_when_pruned() -> None:
    """The channels of the table are those of the head, and of the hidden layer between."""
    model = onnxslim.share(language_model()).model
    ids = [{"ids": np.random.default_rng(at).integers(0, WORDS, (1, 8))} for at in range(12)]
    result = onnxslim.prune(ir.to_proto(model), ids, ratio=0.25, criterion="l2", reconstruct=False)
    large = [v for v in result.model.graph.initializers.values() if v.const_value.size > WORDS * HIDDEN // 2]
    assert len(large) == 1


def test_what_is_shared_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnxslim.share(language_model()).save(tmp_path / "out.onnx")
    assert main(["inspect", str(tmp_path / "out.onnx"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [shared] = found["shared_weights"]
    assert shared["name"] == "table" and shared["saved"] == WORDS * HIDDEN * 4 and len(shared["readers"]) == 2
