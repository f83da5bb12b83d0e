"""Damaged bytes: whatever a bit flip, a gap or a splice makes of a model, it loads soundly or is refused."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest

from onnxslim.errors import ModelError, ResourceError
from onnxslim.model.check import check
from onnxslim.model.io import load, to_proto
from tests.hostile.corpus import all_cases


def _damaged(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 | 1 if at < len(data):
                data[at] = rng.randrange(256)
            case 2 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 3:
                del data[at : at + rng.randrange(1, 5)]
            case 4:
                data[at:at] = rng.randbytes(rng.randrange(1, 5))
            case 5:
                data[at:at] = data[rng.randrange(len(data) + 1) :][: rng.randrange(1, 60)]
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_models(seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    rng = random.Random(seed)
    models = []
    for case in all_cases("kept"):
        if case.group in ("odd", "functions") and not case.name.startswith("chain"):
            (tmp_path / case.name).mkdir()
            models.append(case.write(tmp_path / case.name).read_bytes())
    path, loaded = tmp_path / "damaged.onnx", 0
    for _ in range(300):
        path.write_bytes(_damaged(rng.choice(models), rng))
        try:
            model = load(path)
        except (ModelError, ResourceError):
            continue
        loaded += 1
        check(model)
        check(load(to_proto(model.clone())))
    assert 5 < loaded < 200, "the damage should be neither always fatal nor always harmless"
