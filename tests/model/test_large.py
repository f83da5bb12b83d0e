"""Weights larger than memory allows, disks that fill up, and kills: what only real processes can show."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxslim.model.io import load
from tests.hostile.process import run_cli

pytestmark = pytest.mark.slow

SIDE = 8192
LAYERS = 12  # of SIDE x SIDE float32: 3.2 GB
MAX_RESIDENT = 300 << 20


@pytest.fixture(scope="module")
def three_gigabytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain of MatMul over external data, two weights equal, with a node to remove between them."""
    folder = tmp_path_factory.mktemp("large")
    nodes, initializers, size = [], [], SIDE * SIDE * 4
    rng = np.random.default_rng(0)
    with (folder / "weights.bin").open("wb") as file:
        for layer in range(LAYERS):
            block = rng.standard_normal(1 << 20).astype(np.float32).tobytes()  # repeated: quick to make
            offset = file.tell()
            for _ in range(size // len(block)):
                file.write(block)
            tensor = TensorProto(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[SIDE, SIDE])
            tensor.data_location = TensorProto.EXTERNAL
            initializers.append(tensor)
            for key, value in {"location": "weights.bin", "offset": offset, "length": size}.items():
                tensor.external_data.add(key=key, value=str(value))
            nodes.append(helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [f"m{layer}"]))
            nodes.append(helper.make_node("Identity", [f"m{layer}"], [f"x{layer + 1}"]))
    initializers[-1].external_data[1].value = initializers[0].external_data[1].value
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, SIDE])],
        [helper.make_tensor_value_info(f"x{LAYERS}", TensorProto.FLOAT, [1, SIDE])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def test_inspect_stays_small(three_gigabytes: Path) -> None:
    outcome = run_cli("inspect", three_gigabytes, timeout=300)
    assert outcome.code == 0, outcome.stderr
    assert outcome.peak_bytes < MAX_RESIDENT, f"{outcome.peak_bytes >> 20} MiB"


def test_simplify_stays_small(three_gigabytes: Path, tmp_path: Path) -> None:
    outcome = run_cli("simplify", three_gigabytes, "-o", tmp_path / "out.onnx", timeout=600)
    assert outcome.code == 0, outcome.stderr
    assert outcome.peak_bytes < MAX_RESIDENT, f"{outcome.peak_bytes >> 20} MiB"
    simplified = load(tmp_path / "out.onnx")
    assert [node.op_type for node in simplified.graph] == ["MatMul"] * LAYERS
    data = next(tmp_path.glob("out.onnx.*.data"))
    assert data.stat().st_size < (LAYERS - 1) * SIDE * SIDE * 4 + 4096, "equal weights are stored once"
    with data.open("rb") as new, (three_gigabytes.parent / "weights.bin").open("rb") as old:
        assert new.read(1 << 24) == old.read(1 << 24)


SAVE = """
    import resource, sys
    import numpy as np
    from onnxslim._ir import ir
    from onnxslim.model.edit import add_initializer
    from onnxslim.model.io import load, save

    def model(fill):
        made = load(sys.argv[1])
        for index in range(32):
            add_initializer(made.graph, np.full(1 << 18, fill, np.float32), "w")
        return made

    path, models = sys.argv[2], [model(1.0), model(2.0)]
"""


def _script(body: str) -> str:
    return textwrap.dedent(SAVE) + textwrap.dedent(body)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _fill(path: Path) -> float:
    """The one number that all weights hold, in a file that is whole."""
    values = {
        float(number)
        for value in load(path).graph.initializers.values()
        for number in (value.const_value.numpy().min(), value.const_value.numpy().max())
    }
    assert len(values) == 1, values
    return values.pop()


@pytest.mark.parametrize("external", [False, True])
def test_killed_at_any_moment(external: bool, small: Path, tmp_path: Path) -> None:
    """32 MB are saved over and over; after each kill the file is one of the two models, whole."""
    folder = tmp_path / "out"
    folder.mkdir()
    loop = _script(f"""
        save(models[0], path, external_data={external}, force=True)
        print("ready", flush=True)
        while True:
            for each in reversed(models):
                save(each, path, external_data={external}, force=True)
    """)
    rng = random.Random(0)
    seen = set()
    for _ in range(20):
        command = [sys.executable, "-c", loop, str(small), str(folder / "m.onnx")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        seen.add(_fill(folder / "m.onnx"))
    assert seen == {1.0, 2.0}


@pytest.mark.parametrize("external", [False, True])
def test_file_size_limit(external: bool, small: Path, tmp_path: Path) -> None:
    """The system refuses to write more than 8 MB, as a full disk or a quota would."""
    folder = tmp_path / "out"
    folder.mkdir()
    body = _script(f"""
        save(models[0], path, external_data={external})
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))
        save(models[1], path, external_data={external}, force=True)
    """)
    _assert_refused_and_whole(body, small, folder, "File too large")


@pytest.mark.parametrize("external", [False, True])
def test_full_disk(external: bool, small: Path, tmp_path: Path) -> None:
    """A file system of 48 MB holds the old model of 32 MB, but not a second one beside it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting needs root")
    try:
        body = _script(f"""
            save(models[0], path, external_data={external})
            save(models[1], path, external_data={external}, force=True)
        """)
        _assert_refused_and_whole(body, small, folder, "No space left on device")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # this process still maps a file


def test_interrupted(small: Path, tmp_path: Path) -> None:
    """Ctrl-C while saving leaves the old file, and nothing beside it."""
    folder = tmp_path / "out"
    folder.mkdir()
    loop = _script("""
        save(models[0], path, force=True)
        print("ready", flush=True)
        while True:
            save(models[0], path, force=True)
    """)
    for delay in (0.02, 0.05, 0.1, 0.2):
        command = [sys.executable, "-c", loop, str(small), str(folder / "m.onnx")]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
        assert [path.name for path in folder.iterdir()] == ["m.onnx"]
        assert _fill(folder / "m.onnx") == 1.0


@pytest.mark.parametrize("external", [False, True])
def test_command_line_meets_a_file_size_limit(external: bool, tmp_path: Path) -> None:
    """An error of three lines, exit code 2, the old output as it was."""
    weights = np.random.default_rng(0).standard_normal((1 << 11, 1 << 12)).astype(np.float32)  # 32 MB
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["i"]), helper.make_node("MatMul", ["i", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1 << 11])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1 << 12])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "large.onnx")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(b"precious")
    limited = f"""
        import resource, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))
        from onnxslim.cli import main
        sys.argv = ["onnxslim", "simplify", *sys.argv[1:], "--force", *{["--external-data"] * external}]
        sys.exit(main())
    """
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(limited),
        str(tmp_path / "large.onnx"),
        str(folder / "m.onnx"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 3, done.stderr
    assert "File too large" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["m.onnx"]
    assert (folder / "m.onnx").read_bytes() == b"precious"


def _assert_refused_and_whole(body: str, small: Path, folder: Path, reason: str) -> None:
    command = [sys.executable, "-c", body, str(small), str(folder / "m.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "ResourceError" in done.stderr and reason in done.stderr, done.stderr
    assert _fill(folder / "m.onnx") == 1.0
    assert all(path.name.startswith("m.onnx") for path in folder.iterdir()), list(folder.iterdir())
    assert len(list(folder.iterdir())) <= 2
