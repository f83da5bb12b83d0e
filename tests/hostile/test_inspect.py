"""Whatever loads can be described and compared by ``inspect``, and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxslim.cli import main
from onnxslim.errors import OnnxSlimError
from onnxslim.model.io import load
from tests.hostile.corpus import Case, all_cases


@pytest.mark.parametrize("case", [*all_cases("kept"), *all_cases("survived")], ids=lambda case: case.name)
def test_described(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(case.write(tmp_path))
    try:
        load(path)
    except OnnxSlimError:
        pytest.skip("does not load")
    assert main(["inspect", path]) == 0
    assert main(["inspect", path, "--diff", path]) == 0
    out, err = capsys.readouterr()
    assert not err and all(line.isprintable() for line in out.splitlines())
    assert main(["inspect", path, "--diff", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["activations"]["at_least"] >= 0
    assert found["diff"]["changed"]["count"] == 0 and found["diff"]["ops"] == {}
