"""A round trip keeps everything, adds nothing, and never touches what the caller has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxslim._ir import ir
from onnxslim.errors import ModelError, OptionError, ResourceError
from onnxslim.model import io
from onnxslim.model.edit import replace_initializer, tensor_from
from onnxslim.model.io import file_info, load, save, serialized_size, to_proto
from onnxslim.model.limits import Limits
from onnxslim.model.protos import nodes_of
from tests.models import bit_equal, model, proto, run

X = np.array([-1.5, 2.0], np.float32)
DENSE = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { t = Add(x, w) y = Relu(t) }"


def _rich() -> onnx.ModelProto:
    """A model with a bit of everything that a round trip could lose."""
    rich = proto("""<ir_version: 10, opset_import: ["" : 17, "local" : 1]>
        g (float[N, 2] x, bool c) => (float[N, 2] y) <float[2] w = {1, 2}> {
            t = Add(x, w) u = local.f(t)
            y = If (c) <then_branch = p () => (float[N, 2] a) { a = Neg(u) },
                        else_branch = q () => (float[N, 2] b) { b = Abs(u) }>
        }
        <domain: "local", opset_import: ["" : 17, "extra" : 3]>
        f (a) => (b) { b = Relu(a) }""")
    rich.producer_name, rich.producer_version, rich.domain, rich.model_version = "me", "1.0", "org.example", 7
    rich.doc_string = "about\nthe model"
    rich.metadata_props.add(key="license", value="MIT")
    graph = rich.graph
    graph.doc_string = "about the graph"
    graph.metadata_props.add(key="a", value="b")
    graph.node[0].name, graph.node[0].doc_string = "first", "adds"
    graph.node[0].metadata_props.add(key="namespace", value="layer1")
    graph.initializer[0].doc_string = "bias"
    graph.input[0].doc_string = "pixels"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    graph.value_info.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N", 2], "inner"))
    annotation = graph.quantization_annotation.add(tensor_name="t")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    return rich


def _comparable(message: onnx.ModelProto) -> onnx.ModelProto:
    same = onnx.ModelProto()
    same.CopyFrom(message)
    for node in nodes_of(same):
        if not node.domain:
            node.ClearField("domain")  # set and empty, or not set: the same
    imports = sorted(same.opset_import, key=lambda entry: entry.domain)
    del same.opset_import[:]
    same.opset_import.extend(imports)
    return same


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    rich = _rich()
    (tmp_path / "in.onnx").write_bytes(rich.SerializeToString())
    save(load(tmp_path / "in.onnx"), tmp_path / "out.onnx")
    assert _comparable(onnx.load(tmp_path / "out.onnx")) == _comparable(rich)
    assert (tmp_path / "out.onnx").stat().st_size <= (tmp_path / "in.onnx").stat().st_size + 16


def test_declarations_of_initializers_are_not_added(tmp_path: Path) -> None:
    nested = proto("""g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
        t = Add(x, w)
        y = If (c) <then_branch = p () => (float[2] a) <float[2] k = {1, 2}> { a = Mul(t, k) },
                    else_branch = q () => (float[2] b) { b = Abs(t) }>
    }""")
    out = to_proto(load(nested))
    assert [info.name for info in out.graph.value_info] == []
    assert [info.name for info in out.graph.node[1].attribute[0].g.value_info] == []


@pytest.mark.parametrize("external", [False, True])
def test_serialized_size_is_that_of_the_file(external: bool, tmp_path: Path) -> None:
    source = load(_rich())
    replace_initializer(source.graph.initializers["w"], np.ones((300, 2), np.float32))
    info = save(source, tmp_path / "m.onnx", external_data=external)
    assert abs(info.bytes - serialized_size(source)) < 200
    assert info.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_the_callers_objects_stay(tmp_path: Path) -> None:
    message, before = _rich(), _rich()
    loaded = load(message)
    replace_initializer(loaded.graph.initializers["w"], np.zeros(2, np.float32))
    loaded.graph.initializers["w"].name = "renamed"
    assert message == before
    mine = ir.from_proto(message)
    copy = load(mine)
    replace_initializer(copy.graph.initializers["w"], np.zeros(2, np.float32))
    copy.graph.remove(copy.graph.node(2), safe=False)
    assert _comparable(ir.to_proto(mine)) == _comparable(ir.to_proto(ir.from_proto(before)))


def test_saving_does_not_change_the_model(tmp_path: Path) -> None:
    message = _large()
    source = load(message)
    before = to_proto(source)
    save(source, tmp_path / "a.onnx", external_data=True)
    save(source, tmp_path / "b.onnx")
    assert to_proto(source) == before
    assert message.graph.initializer[0].data_location == TensorProto.DEFAULT


def _large() -> onnx.ModelProto:
    large = proto("g (float[2] x) => (float[1000, 2] y) { y = Add(x, w) }")
    array = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    large.graph.initializer.append(onnx.numpy_helper.from_array(array, "w"))
    return large


@pytest.mark.parametrize("external", [False, True])
def test_outputs_survive_both_forms(external: bool, tmp_path: Path) -> None:
    expected = run(_large(), {"x": X})
    save(load(_large()), tmp_path / "m.onnx", external_data=external)
    assert bit_equal(run(str(tmp_path / "m.onnx"), {"x": X}), expected)
    assert bit_equal(run(to_proto(load(tmp_path / "m.onnx")), {"x": X}), expected)
    assert len(list(tmp_path.glob("*.data"))) == external


def test_ir_3_initializers_are_no_inputs_afterwards() -> None:
    old = proto("g (float[2] x, float[2] w = {3, -4}) => (float[2] y) { y = Add(x, w) }", ir_version=3)
    loaded = load(old)
    assert [value.name for value in loaded.graph.inputs] == ["x"] and "w" in loaded.graph.initializers
    assert bit_equal(run(to_proto(loaded), {"x": X}), run(old, {"x": X}))


def test_attributes_without_a_type_of_the_first_ir() -> None:
    old = proto("g (float[2] x) => (float[2] y) { y = LeakyRelu<alpha = 0.5>(x) }")
    old.graph.node[0].attribute[0].ClearField("type")
    assert load(old).graph.node(0).attributes["alpha"].as_float() == 0.5


@pytest.mark.parametrize("came_apart", [False, True])
def test_many_weights_stay_in_a_file_of_their_own(
    came_apart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(load(_large()), tmp_path / "a.onnx", external_data=came_apart)
    (tmp_path / "b").mkdir()
    save(load(tmp_path / "a.onnx"), tmp_path / "b" / "few.onnx")
    assert not list((tmp_path / "b").glob("*.data"))
    monkeypatch.setattr(io, "_MANY_BYTES", 1000)
    save(load(tmp_path / "a.onnx"), tmp_path / "b" / "many.onnx")
    assert len(list((tmp_path / "b").glob("many.onnx.*.data"))) == came_apart


def test_file_info_counts_external_data(tmp_path: Path) -> None:
    saved = save(load(_large()), tmp_path / "m.onnx", external_data=True)
    assert (
        file_info(tmp_path / "m.onnx") == saved == file_info(tmp_path / "m.onnx", load(tmp_path / "m.onnx"))
    )
    assert saved.nodes == 1 and saved.bytes > 8000 and len(saved.sha256) == 64


def test_limits(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="2 nodes, the limit is 1"):
        load(proto(DENSE), limits=Limits(max_nodes=1))
    (tmp_path / "m.onnx").write_bytes(proto(DENSE).SerializeToString())
    with pytest.raises(ResourceError, match="the limit is 10"):
        load(tmp_path / "m.onnx", limits=Limits(max_proto_bytes=10))


def test_a_model_in_memory_cannot_refer_to_files() -> None:
    message = _large()
    message.graph.initializer[0].ClearField("raw_data")
    message.graph.initializer[0].data_location = TensorProto.EXTERNAL
    message.graph.initializer[0].external_data.add(key="location", value="w.bin")
    with pytest.raises(ModelError, match="folder"):
        load(message)


def test_an_unsound_ir_model_is_refused() -> None:
    dangling = model(DENSE)
    dangling.graph.outputs[0] = ir.Value(name="nothing")
    with pytest.raises(ModelError):
        load(dangling)
    twice = model(DENSE)
    twice.graph.node(0).outputs[0].name = "y"
    with pytest.raises(ModelError, match="defined twice"):
        load(twice)
    stale = model(DENSE)
    stale.graph.initializers["w"].const_value = tensor_from(np.zeros(3, np.float32), "w")
    with pytest.raises(ModelError, match="declared"):
        load(stale)


def test_an_ir_models_data_must_stay_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    (tmp_path / "inner").mkdir()
    mine = model(DENSE)
    mine.graph.initializers["w"].const_value = ir.ExternalTensor(
        "../secret.bin", 0, 8, ir.DataType.FLOAT, shape=ir.Shape([2]), name="w", base_dir=tmp_path / "inner"
    )
    with pytest.raises(ModelError, match="leaves the folder"):
        load(mine)


def test_destinations(tmp_path: Path) -> None:
    source = load(proto(DENSE))
    (tmp_path / "taken.onnx").write_bytes(b"precious")
    with pytest.raises(OptionError, match="exists"):
        save(source, tmp_path / "taken.onnx")
    assert (tmp_path / "taken.onnx").read_bytes() == b"precious"
    for path in (tmp_path, tmp_path / "no" / "folder.onnx", Path("/dev/null")):
        with pytest.raises(OptionError):
            save(source, path, force=True)
    assert Path("/dev/null").is_char_device()


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "input.onnx").write_bytes(b"precious")
    (tmp_path / "out.onnx").symlink_to("input.onnx")
    save(load(proto(DENSE)), tmp_path / "out.onnx", force=True)
    assert (tmp_path / "input.onnx").read_bytes() == b"precious"
    assert not (tmp_path / "out.onnx").is_symlink()
