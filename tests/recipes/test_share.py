"""``share`` from end to end: what models of some kinds are left with, and what later steps leave of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import pytest

import onnxslim
from onnxslim._ir import ir
from onnxslim.analysis.sharing import Shared, shared_weights
from onnxslim.cli import main
from onnxslim.passes import HalveWeights, PackWeights
from onnxslim.passes.base import Pass
from onnxslim.recipes.pipeline import Result
from onnxslim.runtime.kernels import executed

HIDDEN, WORDS = 32, 400
Array = np.ndarray[Any, Any]


def normal(*shape: int) -> Array:
    return (np.random.default_rng(shape).normal(size=shape) / 8).astype(np.float32)


def made(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, list[int]],
    output: list[int],
    weights: dict[str, Array],
) -> onnx.ModelProto:
    """A model of float inputs (``ids``: integers) with one output ``y``."""
    kinds = {name: onnx.TensorProto.INT64 if name == "ids" else onnx.TensorProto.FLOAT for name in inputs}
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info(name, kinds[name], shape) for name, shape in inputs.items()],
        [oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, output)],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(c), name) for name, c in weights.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=9)


def language_model() -> onnx.ModelProto:
    """An embedding that is stored a second time, transposed, as the head."""
    table = normal(WORDS, HIDDEN)
    nodes = [
        oh.make_node("Gather", ["table", "ids"], ["words"]),
        oh.make_node("MatMul", ["words", "inner"], ["mixed"]),
        oh.make_node("Tanh", ["mixed"], ["hidden"]),
        oh.make_node("MatMul", ["hidden", "head"], ["y"]),
    ]
    weights = {"table": table, "inner": normal(HIDDEN, HIDDEN), "head": table.T}
    return made(nodes, {"ids": [1, 8]}, [1, 8, WORDS], weights)


def layers(count: int = 4) -> onnx.ModelProto:
    """Layers of equal weights, exported as copies."""
    nodes, weights, last = [], {}, "x"
    for layer in range(count):
        weights |= {f"w{layer}": normal(HIDDEN, HIDDEN), f"b{layer}": normal(HIDDEN)}
        nodes += [
            oh.make_node("Gemm", [last, f"w{layer}", f"b{layer}"], [f"g{layer}"]),
            oh.make_node("Tanh", [f"g{layer}"], ["y" if layer == count - 1 else f"t{layer}"]),
        ]
        last = f"t{layer}"
    return made(nodes, {"x": [2, HIDDEN]}, [2, HIDDEN], weights)


def towers(inputs: Sequence[str]) -> onnx.ModelProto:
    """Two towers of equal weights over ``inputs``, and the product of what they say."""
    nodes, weights = [], {}
    for side, source in zip("ab", inputs, strict=True):
        weights |= {f"{side}1": normal(HIDDEN, 48), f"{side}2": normal(48, HIDDEN)}
        nodes += [
            oh.make_node("MatMul", [source, f"{side}1"], [f"{side}3"]),
            oh.make_node("Tanh", [f"{side}3"], [f"{side}4"]),
            oh.make_node("MatMul", [f"{side}4", f"{side}2"], [f"{side}5"]),
        ]
    nodes.append(oh.make_node("Mul", ["a5", "b5"], ["y"]))
    return made(nodes, {name: [2, HIDDEN] for name in inputs}, [2, HIDDEN], weights)


def shared(model: onnx.ModelProto) -> Result:
    """Share, with what must be true of every result."""
    result = onnxslim.share(model)
    assert result.report.verification is not None and result.report.verification["ok"]
    assert all(output["bit_equal"] for output in result.report.verification["outputs"])
    before, after = executed(model).histogram, executed(result.to_proto()).histogram
    assert sum(after.values()) <= sum(before.values()), "nothing more runs"
    return result


def stored(model: onnx.ModelProto) -> list[str]:
    """The names of the tensors that have more than a few elements."""
    return sorted(t.name for t in model.graph.initializer if np.prod(t.dims) > 16)


def test_a_tied_embedding_is_stored_once() -> None:
    result = shared(language_model())
    assert stored(result.to_proto()) == ["inner", "table"]
    assert result.report.notes == ("head is stored as Transpose of table",)
    assert result.report.ratio("bytes") < 0.6
    size = WORDS * HIDDEN * 4
    assert shared_weights(result.model) == (Shared("table", ("Gather", "head"), size, size),)


def test_copies_of_layers_are_stored_once() -> None:
    result = shared(layers())
    assert stored(result.to_proto()) == ["b0", "w0"]
    assert {"w3 is stored as w0", "smaller tensors that are stored as others: 3"} < set(result.report.notes)
    assert len(result.model.graph) == 8


@pytest.mark.parametrize(
    ("inputs", "nodes"), [(["l", "r"], 7), (["x", "x"], 4)], ids=["twins", "equal inputs"]
)
def test_twin_towers(inputs: list[str], nodes: int) -> None:
    result = shared(towers(inputs))
    assert stored(result.to_proto()) == ["a1", "a2"]
    assert len(result.model.graph) == nodes, "what reads equal inputs is computed once"


def test_external_data_is_written_once(tmp_path: Path) -> None:
    onnxslim.save(onnxslim.load(language_model()), tmp_path / "in.onnx", external_data=True)
    result = onnxslim.share(tmp_path / "in.onnx", verify=False)
    for value in result.model.graph.initializers.values():
        assert isinstance(value.const_value, ir.ExternalTensor) and value.const_value.raw is None, "mapped"
    result.save(tmp_path / "out.onnx", external_data=True)
    sizes = [sum(f.stat().st_size for f in tmp_path.glob(f"{side}.onnx.*.data")) for side in ("in", "out")]
    assert sizes[0] - sizes[1] == WORDS * HIDDEN * 4
    assert onnxslim.compare(tmp_path / "in.onnx", tmp_path / "out.onnx", promise="exact").ok


@pytest.mark.parametrize("later", [None, HalveWeights(), PackWeights()], ids=["simplify", "halve", "pack"])
def test_tied_weights_stay_tied(later: Pass | None) -> None:
    model = onnxslim.share(language_model()).model
    if later is not None:
        assert later(model).modified
    result = onnxslim.simplify(model)
    tables = [
        t
        for t in result.model.graph.initializers.values()
        if t.shape and t.const_value.size == WORDS * HIDDEN
    ]
    assert len(tables) == 1


@pytest.mark.slow
def test_tied_weights_stay_tied_when_quantized() -> None:
    model = onnxslim.share(language_model()).to_proto()
    result = onnxslim.quantize(model, mode="weight-only")
    size = sum(value.const_value.nbytes for value in result.model.graph.initializers.values())
    assert size < 1.25 * (WORDS + HIDDEN) * HIDDEN, "8 bits or fewer for each number, once"


def test_equal_models_are_left_alone_byte_for_byte(tmp_path: Path) -> None:
    onnx.save(layers(1), tmp_path / "in.onnx")
    onnxslim.share(tmp_path / "in.onnx").save(tmp_path / "out.onnx")
    assert (tmp_path / "in.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")
    onnx.save(language_model(), source)
    assert main(["share", source, "-o", target, "--exact", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "onnxslim.share/1" and found["exit_code"] == 0
    assert found["output"]["bytes"] == Path(target).stat().st_size < 0.6 * Path(source).stat().st_size
    assert "head is stored as Transpose of table" in found["notes"]
    assert {record["name"] for record in found["passes"]} == {
        "deduplicate-initializers",
        "merge-common-subexpressions",
        "share-weights",
    }
    assert main(["share", source, "-o", target]) == 2, "an existing file needs --force"
    assert "--force" in capsys.readouterr().err
    assert main(["inspect", target]) == 0
    assert "bytes saved" in capsys.readouterr().out


def test_it_is_a_recipe_too(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('[[pass]]\nname = "share"\n')
    result = onnxslim.run_recipe(tmp_path / "recipe.toml", language_model())
    assert isinstance(result.model, ir.Model) and stored(result.to_proto()) == ["inner", "table"]
