"""The wheel and the sdist hold the right files, and what is installed elsewhere works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import onnxslim

ROOT = Path(onnxslim.__file__).parent.parent
SHIPPED = ["onnxslim", "tests", "examples", ".ci", "pyproject.toml", "README.md", "ARCHITECTURE.md"]
SHIPPED += ["CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"]


def build(source: Path, target: Path, kind: str) -> Path:
    """Build ``wheel`` or ``sdist`` with the backend itself: no network, no other environment."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    [built] = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    source = tmp_path_factory.mktemp("source")
    for name in SHIPPED:
        origin = ROOT / name
        assert origin.exists(), name
        if origin.is_dir():
            shutil.copytree(origin, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, source / name)
    (source / "passes").symlink_to(Path("onnxslim") / "passes")
    return (
        build(source, tmp_path_factory.mktemp("wheel"), "wheel"),
        build(source, tmp_path_factory.mktemp("sdist"), "sdist"),
    )


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(folder),
    ]
    subprocess.run([*command, str(built[0])], check=True, capture_output=True)
    return folder


def python(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python elsewhere, with the installed copy in front of the one under test."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *arguments],
        check=False,
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
    )


def sources() -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "onnxslim").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
    package = {name for name in names if name.startswith("onnxslim/")}
    assert package == sources()
    assert "onnxslim/py.typed" in package
    rest = {name.partition("/")[0] for name in names - package}
    assert rest == {f"onnxslim_passes-{onnxslim.__version__}.dist-info"}
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_sdist_holds_what_is_needed_to_test_it(built: tuple[Path, Path], tmp_path: Path) -> None:
    with tarfile.open(built[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
        sdist.extractall(tmp_path, filter="data")
    assert sources() <= names
    assert {"tests/test_packaging.py", "examples/digits.onnx", ".ci/run", "LICENSE", "README.md"} <= names
    assert not any(name == "passes" or name.startswith("passes/") for name in names)
    [folder] = tmp_path.iterdir()
    again = build(folder, tmp_path / "again", "wheel")
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(built[0]) as other:
        assert {i.filename: i.CRC for i in one.infolist()} == {i.filename: i.CRC for i in other.infolist()}


def test_what_is_installed_elsewhere_works(installed: Path) -> None:
    where = python(installed, "-c", "import onnxslim; print(onnxslim.__file__)")
    assert where.stdout.strip() == str(installed / "onnxslim" / "__init__.py"), where.stderr
    assert (
        python(installed, "-m", "onnxslim", "--version").stdout == f"onnxslim-passes {onnxslim.__version__}\n"
    )
    model = str(ROOT / "examples" / "digits.onnx")
    target = installed.parent / "installed.onnx"
    done = python(installed, "-m", "onnxslim", "simplify", model, str(target), "--json")
    assert done.returncode == 0, done.stderr
    assert target.is_file()


def test_an_installation_over_the_other_distribution_says_so(installed: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(installed, mixed)
    clean = python(mixed, "-c", "import onnxslim")
    assert (clean.returncode, clean.stderr) == (0, "")
    (mixed / "onnxslim" / "argparser.py").touch()
    done = python(mixed, "-c", "import onnxslim")
    assert done.returncode == 0
    for part in ("'onnxslim-passes'", "'onnxslim'", "pip uninstall", "--force-reinstall"):
        assert part in done.stderr
