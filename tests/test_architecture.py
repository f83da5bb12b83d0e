"""The rules of the house that a reader relies on, checked over the source itself."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import onnxslim

ROOT = Path(onnxslim.__file__).parent
REPOSITORY = ROOT.parent
FILES = sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)

# A layer may import those before it (and itself); layers on one line know nothing of each other.
LAYERS = [
    ("_ir", "errors"),
    ("model",),
    ("ops",),
    ("analysis",),
    ("runtime",),
    ("calibration",),
    ("measure",),  # runs on feeds and draws random ones; feeds know nothing of measuring
    ("reconstruct",),
    ("passes",),
    ("distillation",),
    ("report",),
    ("recipes",),
    ("cli",),
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
BASE = "passes/base.py"  # what a pass is; knows nothing above onnx_ir, so every layer may name a promise
# What recognises a fixed arrangement of operators; model/edit.py reads Constant, a way to store a tensor.
PATTERNS = (
    "model/edit.py",
    "passes/_decoding.py",
    "passes/_linear.py",
    "passes/_weights.py",
    "passes/arrange_gelu.py",
    "passes/binarize_activations.py",
    "passes/fold_batch_norm.py",
    "passes/fold_normalization.py",
    "passes/pack_weights.py",
    "passes/quantize_blocks.py",
    "passes/simplify_reshapes.py",
)
HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "sympy", "rich", "ml_dtypes")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Every onnxslim module that a file imports, at any depth and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)} imports relatively"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                file = REPOSITORY / whole.replace(".", "/")
                yield whole if file.is_dir() or file.with_suffix(".py").is_file() else node.module


def layer(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", [p for p in FILES if p.parent != ROOT], ids=relative)
def test_imports_point_one_way(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    for module in imports(path):
        if not module.startswith("onnxslim.") or module == "onnxslim.passes.base":
            continue
        other = layer(module)
        allowed = LEVEL[other] < LEVEL[own] or other == own
        assert allowed, f"{relative(path)} imports {module}: {own} may not know {other}"


def test_the_base_of_passes_knows_only_the_ir() -> None:
    assert {m for m in imports(ROOT / BASE) if m.startswith("onnxslim")} <= {
        "onnxslim._ir",
        "onnxslim.errors",
    }


@pytest.mark.parametrize("path", sorted((ROOT / "passes").glob("*.py")), ids=relative)
def test_passes_never_import_each_other(path: Path) -> None:
    modules = {
        f"onnxslim.passes.{p.stem}"
        for p in (ROOT / "passes").glob("*.py")
        if not p.stem.startswith("_") and p.stem not in ("base", "registry")
    }
    if path.stem != "__init__":
        assert not modules & (set(imports(path)) - {f"onnxslim.passes.{path.stem}"})


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_the_library_prints_nothing(path: Path) -> None:
    if relative(path).startswith("cli/"):
        return
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not calls, f"print at {relative(path)}:{calls}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_initializers_are_swapped_in_one_place(path: Path) -> None:
    """Assigning ``const_value`` leaves the value's shape stale; ``model.edit`` does both."""
    if relative(path).startswith("model/"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                assert not (isinstance(target, ast.Attribute) and target.attr == "const_value"), (
                    f"{relative(path)}:{node.lineno} assigns const_value; use model.edit.replace_initializer"
                )


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_reads_the_environment(path: Path) -> None:
    # the worker is handed our own environment; numpy has no other switch for its threads than a variable
    if relative(path) in ("runtime/client.py", "cli/simplify.py"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in ("environ", "getenv", "putenv"), f"{relative(path)}:{node.lineno}"


def test_public_names_and_their_types_agree() -> None:
    """The names that resolve at run time are those that a type checker sees, from the same modules."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    [block] = [n for n in tree.body if isinstance(n, ast.If)]
    typed = {
        alias.asname or alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {n: f"onnxslim.{home}" if home else "onnxslim" for n, home in onnxslim._HOME.items()}
    assert typed == homes


def test_public_names_survive_the_import_of_every_submodule() -> None:
    """No submodule takes the place of a public function."""
    for info in pkgutil.walk_packages(onnxslim.__path__, "onnxslim."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
    for name in onnxslim.__all__:
        value = getattr(onnxslim, name)
        assert name in ("__version__", "passes") or callable(value), name
        if inspect.isfunction(value):
            with pytest.raises(TypeError, match="missing"):
                value()
    assert set(onnxslim.__all__) <= set(dir(onnxslim))


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="onnxslim-passes"):
        onnxslim.slim  # noqa: B018 (the other distribution's function)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        onnxslim.nothing  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import onnxslim",
        "from onnxslim.cli import main; assert main(['--version']) == 0",
        "from onnxslim.cli import main; assert main(['--help']) == 0",
        "from onnxslim.cli import main; assert main(['simplify', '--help']) == 0",
        "from onnxslim.cli import main; assert main(['simplfy', 'a.onnx']) == 2",
    ],
)
def test_what_needs_no_model_imports_nothing_heavy(code: str) -> None:
    probe = f"{code}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_worker_imports_only_numpy_and_onnxruntime() -> None:
    probe = (
        "import onnxslim.runtime.worker, sys\n"
        "print([m for m in ('onnx', 'onnx_ir', 'sympy', 'rich', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_operators_are_known_in_one_place() -> None:
    """No operator's name is compared with outside ``ops``, except in the patterns of a fusion."""
    import onnx.defs

    names = {schema.name for schema in onnx.defs.get_all_schemas()}
    found = []
    for path in FILES:
        if relative(path).startswith("ops/") or relative(path) in PATTERNS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and "op_type" in ast.unparse(node):
                found += [
                    f"{relative(path)}:{node.lineno} {constant.value}"
                    for constant in ast.walk(node)
                    if isinstance(constant, ast.Constant) and constant.value in names
                ]
    assert not found


def test_nothing_imports_through_the_symlink() -> None:
    link = REPOSITORY / "passes"
    if not link.exists():
        pytest.skip("an sdist does not carry the symlink")
    assert link.is_symlink() and link.resolve() == ROOT / "passes"
