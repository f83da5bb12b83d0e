"""Whatever goes wrong while saving, the old file stays whole and nothing else is left."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.errors import ResourceError
from onnxslim.model import writer
from onnxslim.model.edit import tensor_from
from onnxslim.model.hashing import tensor_digest
from onnxslim.model.io import load, save
from tests.models import model


def _model(fill: float) -> ir.Model:
    made = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    weights = np.full((4096,), fill, np.float32)
    made.graph.register_initializer(ir.Value(name="w", const_value=tensor_from(weights, "w")))
    return made


def _listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_data_is_named_after_its_content_and_replaced(tmp_path: Path) -> None:
    save(_model(1.0), tmp_path / "m.onnx", external_data=True)
    first = {path.name for path in tmp_path.glob("m.onnx.*.data")}
    save(_model(2.0), tmp_path / "m.onnx", external_data=True, force=True)
    second = {path.name for path in tmp_path.glob("m.onnx.*.data")}
    assert len(first) == len(second) == 1 and first != second
    assert load(tmp_path / "m.onnx").graph.initializers["w"].const_value.numpy()[0] == 2.0
    save(_model(3.0), tmp_path / "m.onnx", force=True)
    assert sorted(_listing(tmp_path)) == ["m.onnx"]


def test_other_peoples_data_stays(tmp_path: Path) -> None:
    for name in ("m.onnx.data", "m.onnx.0123.data", "other.onnx.01234567.data", "m.onnx.0123456g.data"):
        (tmp_path / name).write_bytes(b"precious")
    save(_model(1.0), tmp_path / "m.onnx")
    assert len(_listing(tmp_path)) == 5


@pytest.mark.parametrize("external", [False, True])
def test_saving_over_the_file_that_is_mapped(external: bool, tmp_path: Path) -> None:
    save(_model(1.0), tmp_path / "m.onnx", external_data=True)
    mapped = load(tmp_path / "m.onnx")
    tensor = mapped.graph.initializers["w"].const_value
    digest = tensor_digest(tensor)
    mapped.graph.register_initializer(
        ir.Value(name="v", const_value=tensor_from(np.ones(4096, np.int8), "v"))
    )
    save(mapped, tmp_path / "m.onnx", external_data=external, force=True)
    assert tensor.numpy()[0] == 1.0 and tensor_digest(tensor) == digest, "the model in memory stays usable"
    again = load(tmp_path / "m.onnx")
    assert tensor_digest(again.graph.initializers["w"].const_value) == digest
    save(mapped, tmp_path / "elsewhere.onnx", external_data=True)
    assert tensor_digest(load(tmp_path / "elsewhere.onnx").graph.initializers["w"].const_value) == digest


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    source = _model(1.0)
    shared = source.graph.initializers["w"].const_value
    source.graph.register_initializer(ir.Value(name="tied", const_value=shared))
    save(source, tmp_path / "a.onnx", external_data=True)
    again = load(tmp_path / "a.onnx")
    save(again, tmp_path / "b.onnx", external_data=True)
    for path in tmp_path.glob("*.data"):
        assert path.stat().st_size == 4096 * 4


class _Crash(BaseException):
    """Stands for a kill: no handler for Exception sees it."""


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), _Crash()], ids=["full", "killed"]
)
@pytest.mark.parametrize("moment", range(12))
def test_failure_at_any_moment(
    external: bool,
    error: BaseException,
    moment: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each call that changes something fails in turn: either the old files or the new ones are there."""
    save(_model(1.0), tmp_path / "m.onnx", external_data=True)
    old = _listing(tmp_path)
    reference = tmp_path.with_name(tmp_path.name + "-reference")
    reference.mkdir()
    save(_model(2.0), reference / "m.onnx", external_data=external)
    new = _listing(reference)
    calls = 0

    def failing(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == moment + 1:
                raise error
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (Path, "replace"), (writer, "_write_all"), (Path, "open")):
            patch.setattr(owner, name, failing(getattr(owner, name)))
        with contextlib.suppress(ResourceError, _Crash):
            save(_model(2.0), tmp_path / "m.onnx", external_data=external, force=True)
    found = _listing(tmp_path)
    assert found in (old, new) or (found == {**old, **new}), sorted(found)
    weight = load(tmp_path / "m.onnx").graph.initializers["w"].const_value.numpy()
    assert set(weight.tolist()) in ({1.0}, {2.0})


def test_partial_writes_are_continued(tmp_path: Path) -> None:
    class Slow(io.FileIO):
        def write(self, content: Any) -> int:
            return super().write(memoryview(content)[:7])

    with Slow(tmp_path / "f", "w") as file:
        assert writer._write_all(file, bytes(range(100))) == 100
    assert (tmp_path / "f").read_bytes() == bytes(range(100))
