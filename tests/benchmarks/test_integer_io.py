"""The comparison of integer models with their QDQ models: the example, and a model that is off by a step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from benchmarks.integer_io import convert, judge
from benchmarks.zoo.layout import EXAMPLES


def test_the_example_computes_the_same_bits(tmp_path: Path) -> None:
    original = EXAMPLES / "digits.onnx"
    images = np.load(EXAMPLES / "test.npz")["image"][:8]
    feeds = [{"image": image[None]} for image in images]
    row = convert("digits", original, str(EXAMPLES / "calibration.npz"), feeds, tmp_path)
    assert row.good and row.values == 80
    assert (row.inputs, row.outputs) == ("image uint8", "logits uint8")
    assert row.ratio < 0.3 and row.sqnr_db > 30

    wrong = onnx.load(tmp_path / "digits.integer.onnx")
    [entry] = [e for e in wrong.metadata_props if e.key == "input.image.zero_point"]
    entry.value = str(int(entry.value) + 1)
    onnx.save(wrong, tmp_path / "wrong.onnx")
    row = judge("digits", original, tmp_path / "digits.qdq.onnx", tmp_path / "wrong.onnx", feeds)
    assert not row.equal and not row.good
