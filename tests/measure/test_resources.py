"""What a model costs beside time: memory and start in a process of its own, answers for several callers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxslim.errors import ModelError, OptionError
from onnxslim.measure.footprint import measure_footprint
from onnxslim.measure.remote.streams import epoch
from onnxslim.measure.setting import Inputs
from onnxslim.measure.throughput import measure_throughput
from tests.models import proto

MIB = 1 << 20


def heavy(path: Path, mebibytes: int) -> Path:
    """A model whose weight has this size."""
    rows = mebibytes * MIB // 4 // 1024
    source = proto("g (float[1, n] x) => (float[1, 1024] y) { y = MatMul(x, w) }")
    source.graph.input[0].type.tensor_type.shape.dim[1].dim_value = rows
    values = np.random.default_rng(0).normal(size=(rows, 1024)).astype(np.float32)
    source.graph.initializer.append(onnx.numpy_helper.from_array(values, "w"))
    onnx.save(source, path)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_memory_grows_with_the_weights(tmp_path: Path) -> None:
    found = {}
    for size in (2, 34):
        path = heavy(tmp_path / f"{size}.onnx", size)
        inputs = Inputs(({"x": np.ones((1, size * 256), np.float32)},))
        found[size] = measure_footprint(path, inputs, processes=1)
    added = [found[size].rss_bytes or 0 for size in (2, 34)]
    assert 24 * MIB <= added[1] - added[0] <= 160 * MIB
    assert (found[34].peak_rss_bytes or 0) > added[1]
    assert (found[34].arena_bytes or 0) >= 0 and found[34].session_s > 0 and found[34].first_s > 0


def test_a_model_that_fails_is_named() -> None:
    with pytest.raises(ModelError) as caught:
        measure_footprint(
            proto("g (float[2] x) => (float[2] y) { y = Neg(x) }"),
            Inputs(({"x": np.ones(3, np.float32)},)),
            name="B",
        )
    assert "dimension" in caught.value.what or "B" in (caught.value.where or "")


def test_answers_are_counted() -> None:
    calls = [0, 0]

    def bind(which: int) -> object:
        def make(feed: object) -> object:
            def call() -> None:
                calls[which] += 1

            return call

        return make

    rates = epoch([bind(0), bind(1)], [{}], 2, 0.0, 0, min_rounds=2)  # type: ignore[list-item]
    assert rates.shape == (2, 2) and (rates > 1000).all()
    assert min(calls) * 1.0 >= rates.min(axis=0).min() * 0.2  # the windows of 0.2 s hold what was counted


def test_a_callers_failure_is_reported() -> None:
    def bind(feed: object) -> object:
        done: list[int] = []

        def call() -> None:
            done.append(1)
            if len(done) > 1:
                raise RuntimeError("broken")

        return call

    with pytest.raises(RuntimeError, match="broken"):
        epoch([bind], [{}], 3, 0.0, 0)  # type: ignore[list-item]


def test_more_work_means_fewer_answers() -> None:
    text = "g (float[64, 64] x) => (float[64, 64] y) {{ {} y = Relu(y{}) }}"
    light, dear = (
        proto(text.format("y0 = Neg(x) " + " ".join(f"y{i + 1} = MatMul(y{i}, x)" for i in range(n)), n))
        for n in (1, 60)
    )
    inputs = Inputs(({"x": np.eye(64, dtype=np.float32)},))
    found = measure_throughput(light, dear, inputs, 2, budget_s=0.1)
    assert found.ratio is not None and found.interval is not None and found.b is not None
    assert found.interval[0] <= found.ratio <= found.interval[1] < 1 and found.b < found.a
    with pytest.raises(OptionError, match="stream"):
        measure_throughput(light, None, inputs, 0)
