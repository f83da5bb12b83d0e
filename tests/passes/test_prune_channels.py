"""What PruneChannels rewrites, refuses and leaves alone; that it is exact is shown in tests/contract."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxslim._ir import ir
from onnxslim.analysis.channels import Mask, find_groups, weights_digest
from onnxslim.cli import main
from onnxslim.errors import OptionError
from onnxslim.model import edit, io
from onnxslim.passes.prune_channels import PruneChannels
from onnxslim.runtime.client import open_worker
from tests.contract.channels import Case, load, prune_and_check
from tests.contract.channels_cases import CASES
from tests.models import run
from tests.report.page import parse


def shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.const_value.shape) for name, value in model.graph.initializers.items()}


def test_attributes_and_weights_shrink_together() -> None:
    model = load(CASES["Conv depthwise"])
    [group] = find_groups(model).groups
    assert group.key == "a:0:0:1" and group.channels == 2  # a filter of each of two convolutions
    PruneChannels({group.key: [1, 4]})(model)
    assert shapes(model) == {"a": (4, 3, 3, 3), "b": (4, 4, 1, 1), "d": (4, 1, 3, 3), "e": (4,)}
    depthwise = next(node for node in model.graph if len(node.inputs) == 3)
    assert depthwise.attributes.get_int("group") == 4


def test_heads_and_their_size_overlap() -> None:
    model = load(CASES["heads"])
    heads, size, values = find_groups(model).groups
    assert [(group.size, group.with_role("producer")[0].inner) for group in (heads, size, values)] == [
        (3, 4),
        (4, 1),
        (4, 1),
    ]
    assert [member.start for member in size.with_role("producer") if member.value == "a"] == [0, 4, 8]
    before = edit.constant_value(model.graph.initializers["a"])
    assert before is not None
    PruneChannels({heads.key: [1], size.key: [0]})(model)
    after = edit.constant_value(model.graph.initializers["a"])
    assert after is not None and (after == before[:, [1, 2, 3, 9, 10, 11]]).all()


def test_gates_have_a_member_each() -> None:
    [group] = find_groups(load(CASES["LSTM"])).groups
    gates = [(m.start, m.inner) for m in group.with_role("producer") if m.value == "w"]
    assert gates == [(0, 1), (6, 1), (12, 1), (18, 1)]


def test_the_interface_and_open_axes_stay() -> None:
    model = load(CASES["computed shapes"])
    before = ir.to_proto(model)
    found = find_groups(model)
    PruneChannels({group.key: [0] for group in found.groups})(model)
    after = ir.to_proto(model)
    assert before.graph.input == after.graph.input and before.graph.output == after.graph.output
    for batch in (1, 3):
        [y] = run(after, {"x": np.ones((batch, 7, 5), np.float32)})
        assert y.shape == (batch, 7, 3)


def test_shapes_of_values_are_brought_up_to_date() -> None:
    model = load(CASES["MatMul"])
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))
    [group] = find_groups(inferred).groups
    PruneChannels({group.key: range(5)})(inferred)
    onnx.checker.check_model(ir.to_proto(inferred), full_check=True)


def test_keys_survive_saving(tmp_path: Path) -> None:
    model = load(CASES["grouped queries"])
    io.save(model, tmp_path / "m.onnx")
    again = io.load(tmp_path / "m.onnx")
    assert [g.key for g in find_groups(again).groups] == [g.key for g in find_groups(model).groups]


@pytest.mark.parametrize(
    ("remove", "what"),
    [
        ({"nothing:0:0:1": [0]}, "there is no group"),
        ({"a:1:0:1": [12]}, "there is no channel 12"),
        ({"a:1:0:1": [-1]}, "there is no channel -1"),
        ({"a:1:0:1": range(12)}, "all channels of a group"),
    ],
)
def test_bad_masks_are_refused(remove: dict[str, list[int]], what: str) -> None:
    model = load(CASES["MatMul"])
    before = ir.to_proto(model).SerializeToString()
    with pytest.raises(OptionError, match=what):
        PruneChannels(remove).call(model)
    assert ir.to_proto(model).SerializeToString() == before


def test_nothing_to_remove_changes_nothing() -> None:
    assert not PruneChannels({"a:1:0:1": []})(load(CASES["MatMul"])).modified


def test_a_normalised_axis_is_opt_in() -> None:
    model = load(CASES["com.microsoft SkipLayerNormalization"])
    pinned = find_groups(model)
    assert all("output" in pin.reason or "input" in pin.reason for pin in pinned.pins)  # they come first
    assert pinned.coverage == 1.0 and pinned.fixed == 24


def test_how_many_there_are_of_an_open_axis_must_not_change_what_is_computed() -> None:
    """Channels folded into the batch, whose size is then divided by."""
    case = Case(
        """g (float[N,7,5] x) => (float[N,7,3] y) { h = MatMul(x, a) t = Transpose<perm=[0,2,1]>(h)
        r = Reshape(t, s) n = Shape<end=1>(r) c = Cast<to=1>(n) q = Div(r, c) u = Reshape(q, f)
        v = Transpose<perm=[0,2,1]>(u) y = MatMul(v, b) }""",
        {"a": (5, 12), "b": (12, 3)},
        {"s": [-1, 7], "f": [-1, 12, 7]},
    )
    found = find_groups(load(case))
    assert not found.groups and found.pins[0].reason == "its size is used in a computation"


def test_a_sum_over_an_open_axis_keeps_its_channels() -> None:
    case = Case(
        """g (float[N,7,5] x) => (float[1,7] y) { h = MatMul(x, a) t = Transpose<perm=[0,2,1]>(h)
        r = Reshape(t, s) y = ReduceSum(r, zero) }""",
        {"a": (5, 12)},
        {"s": [-1, 7], "zero": [0]},
    )
    assert not find_groups(load(case)).groups


def test_annotations_of_open_axes_shrink_by_what_repeats() -> None:
    """A file may say how long an axis is that no inference can tell."""
    model = load(CASES["channels folded into the batch"])
    folded = next(node.outputs[0] for node in model.graph if node.op_type == "Softmax")
    folded.shape = ir.Shape([24, 7])  # two samples
    [group] = find_groups(model).groups
    PruneChannels({group.key: [0, 3, 4]})(model)
    assert folded.shape.numpy() == (18, 7)


def test_statistics_over_reshaped_channels_are_opt_in() -> None:
    """An InstanceNormalization of one channel, which is how exporters write a GroupNorm of one group."""
    model = load(
        Case(
            """g (float[N,3,4,4] x) => (float[N,2,4,4] y) { h = Conv(x, a) r = Reshape(h, one)
            n = InstanceNormalization(r, s, t) q = Shape(h) b = Reshape(n, q) y = Conv(b, c) }""",
            {"a": (6, 3, 1, 1), "c": (2, 6, 1, 1), "s": (1,), "t": (1,)},
            {"one": [0, 1, -1]},
        )
    )
    assert [pin.reason for pin in find_groups(model).pins] == [
        "a normalisation takes statistics over it",
        "it is an output of the model",
    ]
    [group] = find_groups(model, residual=True).groups
    PruneChannels({group.key: [0, 3]}, residual=True)(model)
    feed = {"x": np.ones((2, 3, 4, 4), np.float32)}
    assert run(ir.to_proto(model), feed)[0].shape == (2, 2, 4, 4)


@pytest.mark.parametrize(("opset", "parts"), [(11, ""), (13, ""), (18, ", num_outputs=2")])
def test_equal_parts_become_unequal_in_any_operator_set(opset: int, parts: str) -> None:
    case = CASES["Split of parts that are read apart"]
    model = load(replace(case, text=case.text.replace(", num_outputs=2", parts), opset=opset))
    first, second = find_groups(model).groups
    with open_worker() as worker:
        check = prune_and_check(model, {first.key: [0, 5], second.key: [1]}, worker)
    assert check.ok, check.differences[:3]


def test_parts_that_stay_equal_need_no_sizes() -> None:
    """Both halves lose as many: nothing has to be written down."""
    model = load(CASES["Split of parts that are read apart"])
    first, second = find_groups(model).groups
    alike = model.clone()
    PruneChannels({first.key: [0, 1], second.key: [3, 7]})(alike)
    assert [len(node.inputs) for node in alike.graph if node.op_type == "Split"] == [1]
    PruneChannels({first.key: [0, 1]})(model)
    [split] = [node for node in model.graph if node.op_type == "Split"]
    assert edit.constant_value(split.inputs[1]).tolist() == [10, 12] and "num_outputs" not in split.attributes  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["mask.json", "mask.npz"])
def test_masks_are_saved_with_the_model_they_are_for(tmp_path: Path, name: str) -> None:
    model, other = load(CASES["MatMul"]), load(CASES["Relu"])
    edit.replace_initializer(other.graph.initializers["a"], np.ones((5, 12), np.float32))
    Mask({"a:1:0:1": (1, 2)}, weights_digest(model)).save(tmp_path / name)
    mask = Mask.load(tmp_path / name)
    mask.check(model)
    assert mask.remove == {"a:1:0:1": (1, 2)}
    with pytest.raises(OptionError, match="other weights"):
        mask.check(other)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": "onnxslim.mask/1", "remove": {"a": [-1]}}', "[" * 100_000, "\\x00"]
)
def test_what_is_no_mask_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mask.json").write_text(text)
    with pytest.raises(OptionError):
        Mask.load(tmp_path / "mask.json")
    with pytest.raises(OptionError, match="cannot be read"):
        Mask.load(tmp_path / "missing.json")


def test_masks_made_elsewhere_may_be_booleans(tmp_path: Path) -> None:
    np.savez(tmp_path / "mask.npz", **{"a/b:0:0:1": [True, False, True], "__schema__": "onnxslim.mask/1"})  # type: ignore[arg-type]
    assert Mask.load(tmp_path / "mask.npz") == Mask({"a/b:0:0:1": (0, 2)}, "")


@pytest.mark.parametrize(
    "arrays",
    [
        {"a": [0]},
        {"a": [-1], "__schema__": "onnxslim.mask/1"},
        {"a": [0.5], "__schema__": "onnxslim.mask/1"},
        {"a": [[0]], "__schema__": "onnxslim.mask/1"},
        {"a": np.array([None]), "__schema__": "onnxslim.mask/1"},
        None,
    ],
)
def test_arrays_that_are_no_mask_are_refused(tmp_path: Path, arrays: dict[str, Any] | None) -> None:
    file = tmp_path / "mask.npz"
    if arrays is None:
        file.write_bytes(b"PK no archive")
    else:
        np.savez(file, **arrays)
    with pytest.raises(OptionError, match="the file is not"):
        Mask.load(file)


def test_inspect_lists_groups_and_pins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    io.save(load(CASES["heads"]), tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx"), "--channels", "-v"]) == 0
    shown = capsys.readouterr().out
    assert "a:1:0:4" in shown and "it is an output of the model" in shown
    assert main(["inspect", str(tmp_path / "m.onnx"), "--channels", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["channels"]
    assert found["coverage"] == 1 and [group["size"] for group in found["groups"]] == [3, 4, 4]
    assert found["pins"][0]["interface"] is True
    assert main(["inspect", str(tmp_path / "m.onnx"), "--residual"]) == 2


def test_inspect_draws_the_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.recipes.pruning.nets import small_net

    io.save(small_net(), tmp_path / "m.onnx")
    command = ["inspect", str(tmp_path / "m.onnx"), "--channels", "-q", "--report", str(tmp_path / "m.html")]
    assert main(command) == 0
    page = parse((tmp_path / "m.html").read_text(encoding="utf-8"))
    arcs, rows = page.all("path"), page.all("rect")
    assert len(rows) == 2 and len(arcs) == 1  # 16 channels, of which the last convolution makes 12
    assert "w1:0:0:1 (16 channels)" in " ".join(page.text.split()) and not page.all("script")
    widths = [float(row.attributes["width"].rstrip("%")) for row in rows]
    assert widths[1] == pytest.approx(widths[0] * 12 / 16, abs=0.01)
    assert main(command) == 2 and "exists" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert main(["inspect", str(tmp_path / "m.onnx"), "--report", "m.html"]) == 2


def test_edges_lead_where_a_weight_leads() -> None:
    found = find_groups(load(CASES["heads"]))
    for group, feeds in zip(found.groups, found.edges, strict=True):
        read = {member.value for member in group.with_role("consumer")}
        for other in found.groups:
            made = {member.value for member in other.with_role("producer")}
            assert (other.index in feeds) == bool(read & made and other is not group)
