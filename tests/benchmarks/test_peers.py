"""Building and judging the peers' candidates, on small models and without their environments."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import environments
from benchmarks.compress import sqnr_db
from benchmarks.peers import __main__ as command
from benchmarks.peers import builders, methods
from benchmarks.peers.judging import Judge, Subject, begun, measure
from benchmarks.peers.methods import Builder, BuildError, build_with
from benchmarks.peers.rows import Row, load
from tests.models import proto

Build = Callable[[Path], None]
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small network of Conv, MatMul and Gemm, and feeds for it."""
    folder = tmp_path_factory.mktemp("prepared")
    model = proto(
        """g (float[N,3,8,8] x) => (float[N,4] y) {
             c = Conv<pads = [1,1,1,1]>(x, k)  r = Relu(c)  m = GlobalAveragePool(r)  f = Flatten(m)
             h = MatMul(f, w)  t = Tanh(h)  y = Gemm(t, v, b)
           }"""
    )
    shapes = {"k": (32, 3, 3, 3), "w": (32, 64), "v": (64, 4), "b": (4,)}
    for name, shape in shapes.items():
        values = RANDOM.normal(size=shape) / np.sqrt(shape[0])
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    (folder / "source").mkdir()
    (folder / "feeds").mkdir()
    onnx.save(model, folder / "source" / "model.onnx")
    for number in range(4):
        np.savez(folder / "feeds" / f"{number}.npz", x=RANDOM.normal(size=(1, 3, 8, 8)).astype(np.float32))
    return folder / "source" / "model.onnx", folder / "feeds"


@pytest.mark.parametrize(
    ("method", "kinds", "least_db"),
    [
        # all activations: x r m f h t y (the Relu goes into the Conv), and four constants
        ("ort-static", {"QuantizeLinear": 7, "DequantizeLinear": 7 + 4, "Relu": 0}, 20),
        ("ort-static-gemms", {"QuantizeLinear": 6, "DequantizeLinear": 6 + 4, "Relu": 1}, 20),  # x c f h t y
        ("ort-static-percentile", {"QuantizeLinear": 7, "DequantizeLinear": 7 + 4, "Relu": 0}, 15),
        ("ort-dynamic", {"MatMulInteger": 2, "Conv": 1, "ConvInteger": 0}, 20),
        ("ort-dynamic-matmul", {"MatMulInteger": 2, "Gemm": 0}, 20),
        ("ort-4bit", {"MatMulNBits": 1, "Gemm": 1}, 10),
        ("ort-graph", {"FusedConv": 1, "Relu": 0}, 100),
    ],
)
def test_each_method_of_onnxruntime_makes_what_it_says(
    method: str, kinds: dict[str, int], least_db: float, prepared: tuple[Path, Path], tmp_path: Path
) -> None:
    source, folder = prepared
    target = tmp_path / "model.onnx"
    build_with(sys.executable, method, source, folder, target)
    found = Counter(node.op_type for node in onnx.load(target).graph.node)
    assert {kind: found[kind] for kind in kinds} == kinds, found
    assert sqnr_db(source, target, builders.feeds(str(folder))) > least_db
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_every_peer_has_an_environment_and_a_function() -> None:
    assert methods.PEERS.keys() == builders.BUILDERS.keys()
    for _, requirements in methods.PEERS.values():
        assert all("==" in requirement for requirement in requirements)


def test_the_reason_of_a_failure_is_the_last_thing_said(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(BuildError, match=r"DecodeError|InvalidProtobuf"):
        build_with(sys.executable, "ort-4bit", broken, prepared[1], tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("kill -9 $$", "signal 9"),
        ("true", "no model"),
        ("exit 3", "exit code 3"),
        ("sleep 60", "not done"),
    ],
)
def test_whatever_happens_to_a_peer_is_a_reason(
    does: str, reason: str, prepared: tuple[Path, Path], tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec >/dev/null 2>&1\n{does}\n")
    python.chmod(0o755)
    with pytest.raises(BuildError, match=reason):
        build_with(python, "ort-graph", *prepared, tmp_path / "a.onnx", limit_s=2)


def test_an_environment_is_made_once(tmp_path: Path) -> None:
    """With a package that the test makes: an empty one, with nothing but its metadata."""
    wheel = tmp_path / "some_peer-1.2-py3-none-any.whl"
    about = "some_peer-1.2.dist-info"
    files = {
        "METADATA": "Metadata-Version: 2.1\nName: some-peer\nVersion: 1.2\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    (tmp_path / "files" / about).mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "files" / about / name).write_text(text)
    archive = shutil.make_archive(str(tmp_path / "some"), "zip", tmp_path / "files")
    Path(archive).rename(wheel)
    executables = environments.environment("peer", [str(wheel)], tmp_path / "environments")
    [line] = environments.installed(executables)
    assert line.startswith("some-peer")
    wheel.unlink()
    assert environments.environment("peer", [str(wheel)], tmp_path / "environments") == executables


def test_an_environment_that_cannot_be_made_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def create(home: Path, **options: object) -> None:
        made.append(home.name)
        (home / "bin").mkdir(parents=True, exist_ok=True)
        (home / "bin" / "python").write_text("#!/bin/sh\necho 'ERROR: no network' >&2\nexit 1\n")
        (home / "bin" / "python").chmod(0o755)

    monkeypatch.setattr(environments.venv, "create", create)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="peer does not install: ERROR: no network"):
            environments.environment("peer", ["some==1"], tmp_path)
    assert made == ["peer", "peer"]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject("mnist_mobilenetv2")


def judged(subject: Subject, folder: Path, build: Build) -> Row:
    judge = Judge(budget_s=0.5)
    return measure(subject, begun(subject, "some", ["1"], judge), build, judge, folder)


def test_the_original_returned_changes_nothing(subject: Subject, tmp_path: Path) -> None:
    row = judged(subject, tmp_path, lambda target: target.write_bytes(subject.path.read_bytes()) and None)
    assert (row.time, row.bytes, row.time_interval, row.sqnr_db) == (1, 1, (1, 1), float("inf"))
    assert row.before == row.after == subject.score.value and row.n == 1000
    assert row.holds


def test_a_candidate_that_lost_its_weights_is_measured_and_lost(subject: Subject, tmp_path: Path) -> None:
    def build(target: Path) -> None:
        model = onnx.load(subject.path)
        for weight in model.graph.initializer:
            if len(weight.dims) == 2:
                zeros = np.zeros_like(onnx.numpy_helper.to_array(weight))
                weight.CopyFrom(onnx.numpy_helper.from_array(zeros, weight.name))
        onnx.save(model, target, save_as_external_data=True, location="model.data", size_threshold=1024)

    row = judged(subject, tmp_path, build)
    assert row.lost and not row.failure and row.after < 0.2
    assert row.bytes > 0.9  # the data file counts
    assert row.time_interval[0] <= row.time <= row.time_interval[1] != 1
    assert row.sqnr_db < 10


def test_a_candidate_that_does_not_load_is_a_row(subject: Subject, tmp_path: Path) -> None:
    row = judged(subject, tmp_path, lambda target: target.write_bytes(b"no model") and None)
    assert row.failure.startswith("does not run: ") and not row.holds and not row.lost
    assert row.before != row.before and len(row.cells()) == 11


def test_a_method_that_makes_nothing_is_a_row(subject: Subject, tmp_path: Path) -> None:
    def build(target: Path) -> None:
        raise BuildError("it cannot\n | do this")

    row = judged(subject, tmp_path, build)
    assert row.failure == "not built: it cannot\n | do this"
    assert row.cells()[-1] == "not built: it cannot / do this"


def test_what_was_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    version = "1"

    def fake(subject: Subject, row: Row, *others: object) -> Row:
        ran.append(row.method)
        return row

    monkeypatch.setattr(command, "measure", fake)
    monkeypatch.setattr(Builder, "versions", lambda self, method: (version,))
    monkeypatch.setenv("ZOO", "")
    base = ["mnist_mobilenetv2", "--zoo", str(tmp_path), "--results", str(tmp_path)]

    def measured(*more: str) -> list[str]:
        ran.clear()
        assert command.main([*base, "--methods", "ort-graph", "ours", *more]) == 0
        return list(ran)

    assert measured() == ["ort-graph", "ours"]
    assert measured() == []
    assert measured("--force") == ["ort-graph", "ours"]
    assert measured("--threads", "2") == ["ort-graph", "ours"]
    version = "2"
    assert measured("--threads", "2") == ["ort-graph", "ours"]
    assert len(load(tmp_path / "peers.json")) == 2
    assert capsys.readouterr().out.strip().endswith((tmp_path / "peers.md").read_text().strip())


def test_what_cannot_be_set_up_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that was not fetched is an error at the end; a peer that does not install is a row."""

    def versions(self: Builder, method: str) -> tuple[str, ...]:
        raise BuildError(f"{method} does not install: no network")

    monkeypatch.setattr(Builder, "versions", versions)
    monkeypatch.setenv("ZOO", "")
    arguments = ["magika", "mnist_mobilenetv2", "--zoo", str(tmp_path), "--results", str(tmp_path)]
    assert command.main([*arguments, "--methods", "nncf"]) == 1
    assert "magika: there is no" in capsys.readouterr().err
    [row] = load(tmp_path / "peers.json")
    assert row.failure == "nncf does not install: no network"


def test_results_of_another_version_are_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "peers.json").write_text(json.dumps({"rows": [{"model": "a", "speed": 2}]}))
    with pytest.raises(SystemExit) as stopped:
        command.main(["--zoo", str(tmp_path), "--results", str(tmp_path)])
    assert stopped.value.code == 2
    assert "another version" in capsys.readouterr().err
