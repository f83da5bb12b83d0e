"""Things given as a model file that are none."""

from __future__ import annotations

import gzip
import os
import socket
import zipfile
from pathlib import Path

import onnx
from onnx import helper

from tests.hostile.corpus import kept, refused
from tests.models import proto

RELU = "g (float[2] x) => (float[2] y) { y = Relu(x) }"


@refused
def empty_file(folder: Path) -> bytes:
    return b""


@refused
def random_bytes(folder: Path) -> bytes:
    return bytes(range(256)) * 64


@refused
def only_zeros(folder: Path) -> bytes:
    return bytes(4096)


@refused
def plain_text(folder: Path) -> bytes:
    return b"hello, this is no model\n"


@refused
def error_page(folder: Path) -> bytes:
    return b"<!DOCTYPE html><html><body>404: not found</body></html>"


@refused
def lfs_pointer(folder: Path) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@refused
def text_format(folder: Path) -> bytes:
    return str(proto(RELU)).encode()


@refused
def cut_in_half(folder: Path) -> bytes:
    content = proto(RELU).SerializeToString()
    return content[: len(content) // 2]


@refused
def cut_by_one_byte(folder: Path) -> bytes:
    return proto(RELU).SerializeToString()[:-1]


@refused
def gzipped(folder: Path) -> bytes:
    return gzip.compress(proto(RELU).SerializeToString())


@refused
def zipped(folder: Path) -> Path:
    path = folder / "model.onnx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.onnx", proto(RELU).SerializeToString())
    return path


@refused
def another_message(folder: Path) -> bytes:
    return helper.make_tensor("t", onnx.TensorProto.FLOAT, [2], [1, 2]).SerializeToString()


@refused
def folder_as_model(folder: Path) -> Path:
    (folder / "model.onnx").mkdir()
    return folder / "model.onnx"


@refused
def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


@refused
def link_to_endless_device(folder: Path) -> Path:
    (folder / "model.onnx").symlink_to("/dev/zero")
    return folder / "model.onnx"


@refused
def endless_device(folder: Path) -> Path:
    return Path("/dev/urandom")


@refused
def empty_device(folder: Path) -> Path:
    return Path("/dev/null")


@refused
def unix_socket(folder: Path) -> Path:
    here = Path.cwd()
    os.chdir(folder)  # the path of a socket is limited to 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("model.onnx")
    finally:
        os.chdir(here)
    return folder / "model.onnx"


@refused
def missing(folder: Path) -> Path:
    return folder / "model.onnx"


@refused
def dangling_link(folder: Path) -> Path:
    (folder / "model.onnx").symlink_to("nowhere.onnx")
    return folder / "model.onnx"


@refused
def loop_of_links(folder: Path) -> Path:
    (folder / "model.onnx").symlink_to("other.onnx")
    (folder / "other.onnx").symlink_to("model.onnx")
    return folder / "model.onnx"


def _hole(folder: Path, size: int) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto(RELU).SerializeToString())
    os.truncate(path, size)
    return path


@refused
def hole_of_a_gigabyte(folder: Path) -> Path:
    return _hole(folder, 1 << 30)


@refused
def hole_of_a_terabyte(folder: Path) -> Path:
    return _hole(folder, 1 << 40)


def _field(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while size >= 0x80:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


@refused
def flood_of_empty_nodes(folder: Path) -> bytes:
    return b"\x08\x08" + _field(7, b"\x0a\x00" * (12 << 20))


@refused
def flood_of_empty_attributes(folder: Path) -> bytes:
    return b"\x08\x08" + _field(7, _field(1, b"\x2a\x00" * (12 << 20)))


@refused
def flood_of_empty_metadata(folder: Path) -> bytes:
    return proto(RELU).SerializeToString() + b"\x72\x00" * (12 << 20)


@refused
def many_nodes(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    model.graph.node.extend([helper.make_node("Relu", ["x"], [f"r{i}"]) for i in range(150_000)])
    return model


@refused
def deeply_nested_wire(folder: Path) -> bytes:
    content = b""
    for _ in range(20_000):
        content = _field(6, content)  # AttributeProto.g, Graph.node, Node.attribute ... never ending
        if len(content) > 1 << 16:
            break
    return b"\x08\x08" + _field(7, _field(1, _field(5, content * 100)))


@refused
def sixty_nested_branches(folder: Path) -> bytes:
    name, kind = _field(1, b"then_branch"), b"\xa0\x01\x05"  # protobuf's own encoder refuses such depth
    graph = _field(1, _field(1, b"x") + _field(2, b"y") + _field(4, b"Relu"))
    for _ in range(60):
        attribute = name + kind + _field(6, graph)
        graph = _field(1, _field(1, b"c") + _field(2, b"y") + _field(4, b"If") + _field(5, attribute))
    return b"\x08\x08" + _field(7, graph) + _field(8, b"\x10\x11")


@refused
def sequences_of_sequences(folder: Path) -> onnx.ModelProto:
    model = proto(RELU)
    kind = model.graph.value_info.add(name="deep").type
    for _ in range(40):
        kind = kind.sequence_type.elem_type
    kind.tensor_type.elem_type = 1
    return model


@kept
def link_to_the_model(folder: Path) -> Path:
    (folder / "real.onnx").write_bytes(proto(RELU).SerializeToString())
    (folder / "model.onnx").symlink_to("real.onnx")
    return folder / "model.onnx"


@kept
def unknown_fields(folder: Path) -> bytes:
    return proto(RELU).SerializeToString() + b"\xc2\x3e\x05hello" + b"\xc8\x3e\x2a"
