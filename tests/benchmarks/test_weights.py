"""The comparison of 4-bit weights: its table, its peers' failures, and that ours are what compress tries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from benchmarks import weights
from tests.models import proto


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    model = proto("g (float[n,128] x) => (float[n,128] y) { y = MatMul(x, w) }")
    weight = rng.normal(size=(128, 128)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "m.onnx")

    def feeds(n: int = 8) -> Iterator[dict[str, np.ndarray]]:
        return ({"x": rng.normal(size=(8, 128)).astype(np.float32)} for _ in range(n))

    monkeypatch.setattr(weights, "FEEDS", 16)
    monkeypatch.setattr(weights, "model_path", lambda name: tmp_path / f"{name}.onnx")
    monkeypatch.setattr(weights, "task", lambda name: SimpleNamespace(inputs=feeds, held_out=feeds))
    return tmp_path


def test_ours_are_smaller_and_nearer(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: Path, feeds: object, target: Path) -> None:
        raise ValueError("no\nreason")

    monkeypatch.setitem(weights.PEERS, "broken", broken)
    for slow in ("MatMulNBits, zero points", "MatMulNBits, its GPTQ"):
        monkeypatch.delitem(weights.PEERS, slow)
    (tmp_path / "work").mkdir()
    found = {row.method: row for row in weights.rows("m", tmp_path / "work", 0.3)}
    peer = found["MatMulNBits"]
    four = [row for name, row in found.items() if "4 bits" in name]
    assert len(four) == 2 and all(row.bytes < peer.bytes + 0.01 < 0.3 and row.time > 0 for row in four)
    assert min(row.sqnr_db for row in four) > peer.sqnr_db > 15
    assert found["broken"].cells() == ("m", "broken", "ValueError: no", "", "", "")
    assert len(peer.cells()) == len(weights.HEADER)
