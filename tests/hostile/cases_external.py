"""External data that is elsewhere, something else, or not there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from tests.hostile.corpus import kept, refused
from tests.models import proto

ADD = "g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}> { y = Add(x, w) }"
CONTENT = np.arange(64, dtype=np.float32).tobytes()


def _refer(tensor: TensorProto, location: str, offset: object = 0, length: object = 16) -> None:
    for field in ("raw_data", "float_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))


def _external(location: str, offset: object = 0, length: object = 16) -> onnx.ModelProto:
    model = proto(ADD)
    _refer(model.graph.initializer[0], location, offset, length)
    return model


def _elsewhere(folder: Path) -> Path:
    """A real file of the right size outside of the case's folder."""
    path = folder.resolve().parent / f"{folder.name}-secret.bin"
    path.write_bytes(CONTENT)
    return path


@refused
def absolute_path(folder: Path) -> onnx.ModelProto:
    return _external(str(_elsewhere(folder)))


@refused
def parent_folder(folder: Path) -> onnx.ModelProto:
    return _external(os.path.relpath(_elsewhere(folder), folder))


@refused
def parent_folder_in_the_middle(folder: Path) -> onnx.ModelProto:
    (folder / "sub").mkdir()
    return _external("sub/../" + os.path.relpath(_elsewhere(folder), folder))


@refused
def parent_folder_and_back(folder: Path) -> onnx.ModelProto:
    (folder / "w.bin").write_bytes(CONTENT)
    return _external(f"../{folder.name}/w.bin")


@refused
def windows_path(folder: Path) -> onnx.ModelProto:
    return _external("C:\\secret.bin")


@refused
def link_out_of_the_folder(folder: Path) -> onnx.ModelProto:
    (folder / "w.bin").symlink_to(_elsewhere(folder))
    return _external("w.bin")


@refused
def linked_folder_out_of_the_folder(folder: Path) -> onnx.ModelProto:
    (folder / "sub").symlink_to(_elsewhere(folder).parent)
    return _external(f"sub/{_elsewhere(folder).name}")


@refused
def hard_link(folder: Path) -> onnx.ModelProto:
    os.link(_elsewhere(folder), folder / "w.bin")
    return _external("w.bin")


@refused
def device_as_data(folder: Path) -> onnx.ModelProto:
    (folder / "w.bin").symlink_to("/dev/zero")
    return _external("w.bin")


@refused
def pipe_as_data(folder: Path) -> onnx.ModelProto:
    os.mkfifo(folder / "w.bin")
    return _external("w.bin")


@refused
def folder_as_data(folder: Path) -> onnx.ModelProto:
    (folder / "w.bin").mkdir()
    return _external("w.bin")


@refused
def dot_as_data(folder: Path) -> onnx.ModelProto:
    return _external(".")


@refused
def missing_data(folder: Path) -> onnx.ModelProto:
    return _external("w.bin")


@refused
def loop_of_links_as_data(folder: Path) -> onnx.ModelProto:
    (folder / "w.bin").symlink_to("w.bin")
    return _external("w.bin")


@refused
def empty_location(folder: Path) -> onnx.ModelProto:
    return _external("")


@refused
def nul_in_location(folder: Path) -> onnx.ModelProto:
    return _external("w.bin\0.txt")


@refused
def endless_location(folder: Path) -> onnx.ModelProto:
    return _external("w" * 100_000)


def _in_file(folder: Path, offset: object = 0, length: object = 16) -> onnx.ModelProto:
    (folder / "w.bin").write_bytes(CONTENT)
    return _external("w.bin", offset, length)


@refused
def offset_beyond_the_end(folder: Path) -> onnx.ModelProto:
    return _in_file(folder, offset=10_000)


@refused
def data_reaches_beyond_the_end(folder: Path) -> onnx.ModelProto:
    return _in_file(folder, offset=len(CONTENT) - 8)


@refused
def length_beyond_the_end(folder: Path) -> onnx.ModelProto:
    return _in_file(folder, length=1 << 40)


@refused
def length_of_another_shape(folder: Path) -> onnx.ModelProto:
    return _in_file(folder, length=32)


@refused
def negative_offset(folder: Path) -> onnx.ModelProto:
    return _in_file(folder, offset=-16)


@refused
def hexadecimal_offset(folder: Path) -> onnx.ModelProto:
    return _in_file(folder, offset="0x10")


@refused
def underscored_length(folder: Path) -> onnx.ModelProto:
    return _in_file(folder, length="1_6")


@refused
def astronomic_offset(folder: Path) -> onnx.ModelProto:
    return _in_file(folder, offset="9" * 5000)


@refused
def location_twice(folder: Path) -> onnx.ModelProto:
    model = _in_file(folder)
    model.graph.initializer[0].external_data.add(key="location", value="../../etc/passwd")
    return model


@refused
def external_and_inside(folder: Path) -> onnx.ModelProto:
    model = _in_file(folder)
    model.graph.initializer[0].raw_data = bytes(16)
    return model


@refused
def external_strings(folder: Path) -> onnx.ModelProto:
    model = _in_file(folder)
    model.graph.initializer[0].data_type = TensorProto.STRING
    return model


@refused
def foreign_data_of_a_constant(folder: Path) -> onnx.ModelProto:
    model = proto(
        "g (float[4] x) => (float[4] y) { k = Constant<value = float[4] {1, 2, 3, 4}>() y = Add(x, k) }"
    )
    _refer(model.graph.node[0].attribute[0].t, str(_elsewhere(folder)))
    return model


@refused
def foreign_data_of_a_branch(folder: Path) -> onnx.ModelProto:
    model = proto("""g (float[4] x, bool c) => (float[4] y) {
        y = If (c) <then_branch = p () => (float[4] u) <float[4] w = {1, 2, 3, 4}> { u = Add(x, w) },
                    else_branch = q () => (float[4] v) { v = Neg(x) }>
    }""")
    _refer(model.graph.node[0].attribute[0].g.initializer[0], os.path.relpath(_elsewhere(folder), folder))
    return model


@refused
def foreign_data_of_a_function(folder: Path) -> onnx.ModelProto:
    model = proto("""<ir_version: 10, opset_import: ["" : 17, "local" : 1]>
        g (float[4] x) => (float[4] y) { y = local.shift(x) }
        <domain: "local", opset_import: ["" : 17]>
        shift (a) => (b) { k = Constant<value = float[4] {1, 2, 3, 4}>() b = Add(a, k) }""")
    _refer(model.functions[0].node[0].attribute[0].t, str(_elsewhere(folder)))
    return model


@refused
def hole_as_data(folder: Path) -> onnx.ModelProto:
    (folder / "w.bin").touch()
    os.truncate(folder / "w.bin", 1 << 40)
    model = _external("w.bin", length=1 << 40)
    model.graph.initializer[0].dims[:] = [1 << 38]
    return model


@refused
def same_data_a_thousand_times(folder: Path) -> onnx.ModelProto:
    size = 32 << 20
    (folder / "w.bin").write_bytes(bytes(size))
    model = proto(ADD)
    for index in range(1000):
        tensor = model.graph.initializer.add(name=f"w{index}", data_type=TensorProto.UINT8, dims=[size])
        _refer(tensor, "w.bin", length=size)
    return model


@kept
def data_beside_the_model(folder: Path) -> onnx.ModelProto:
    return _in_file(folder, offset=64)


@kept
def data_without_offset_and_length(folder: Path) -> onnx.ModelProto:
    return _in_file(folder, offset=None, length=None)


@kept
def data_in_a_folder_below(folder: Path) -> onnx.ModelProto:
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "w.bin").write_bytes(CONTENT)
    return _external("sub/deep/w.bin", offset=4)


@kept
def data_of_two_names(folder: Path) -> onnx.ModelProto:
    model = _in_file(folder)
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
    model.graph.initializer[1].name = "tied"
    model.graph.node[0].output[0] = "z"
    model.graph.node.append(onnx.helper.make_node("Mul", ["z", "tied"], ["y"]))
    return model


@kept
def data_with_a_name_in_unicode(folder: Path) -> onnx.ModelProto:
    (folder / "重み データ.bin").write_bytes(CONTENT)
    return _external("重み データ.bin")
