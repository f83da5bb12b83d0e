"""What distillation gives back: ``onnxslim distill`` on pruned and on few-bit students of real models.

    python -m benchmarks.distillation [ROWS...] --zoo ROOT [--seeds 3] [--time 60s] [--controls]

Everything goes through the command line, as for a user.  At most 512 inputs without labels are pruned and
trained on; the data that score are others, and are looked at once, in plain onnxruntime.  A row is the name
of a model, a colon and how its student is made: a share of the multiply-accumulates, ``binary`` (one sign for
each weight, fitted to the data), ``signs2`` (two), bits of its weights, rounded to nearest, or ``int8``, with
activations in integers as well.
The controls of a pruned row: the same shape from random weights in the same time, and 64 inputs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.compress import onnxslim, sqnr_db
from benchmarks.pruning import SAMPLES, feeds_of
from benchmarks.writing import RESULTS, markdown, write
from benchmarks.zoo.layout import EXAMPLES, check_names, model_path, task, use
from onnxslim.analysis.linears import products_of
from onnxslim.model.edit import constant_value, replace_initializer
from onnxslim.model.io import load, save

ROWS = (
    "mnist_resnet14:0.09x",
    "mnist_mobilenetv2:0.28x",
    "mnist_vit:0.55x",
    "ppocr_cls:0.56x",
    "mnist_resnet14:binary",
    "mnist_mobilenetv2:binary",
    "mnist_vit:binary",
    "ppocr_cls:binary",
    "ppocr_cls:int2",
    "mnist_mobilenetv2:int2",
    "mnist_vit:int2",
    "mnist_vit:signs2",
    "mnist_mobilenetv2:int4",
    "mnist_resnet14:int8",
    "mnist_mobilenetv2:int8",
)
FORMS = {
    f"int{bits}": f'[[pass]]\nname = "pack-weights"\nbits = {bits}\nnarrow_sqnr_db = 0.0\nmin_sqnr_db = 0.0\n'
    for bits in (2, 4)
} | {"signs2": '[[pass]]\nname = "binarize-weights"\nbases = 2\nmin_sqnr_db = 0.0\n'}
FEW = 64
LINES = 800  # that score the classifier of lines
HEADER = (
    "student",
    "control",
    "seeds",
    "original",
    "student's",
    "distilled",
    "spread",
    "dB before",
    "dB",
    "s",
)

_FEEDS = """from {module} import {source} as source


def feeds():
    return ({item} for {names} in source({arguments}))


def metric(path):
    from benchmarks.zoo.scoring import open_session

    session = open_session(path)
    hits = [session.run(None, {{"x": x}})[0][0].argmax() == label for x, label in source({test})]
    return sum(hits) / len(hits)
"""


@dataclass(frozen=True)
class Run:
    """One student, trained once; the scores are those of the original, the student and the result."""

    row: str
    control: str
    seed: int
    original: float
    before: float
    after: float
    start_db: float
    sqnr_db: float
    seconds: float


@dataclass(frozen=True)
class Data:
    """What a model is trained and scored on: arguments of the command line."""

    data: tuple[str, ...]
    score: tuple[str, ...]


def data_of(name: str, seed: int, folder: Path, samples: int) -> Data:
    """Inputs to learn on, drawn by the seed where they are drawn at all, and others that score."""
    if name == "ppocr_cls":
        path = folder / f"lines{seed}.py"
        path.write_text(
            _FEEDS.format(
                module="benchmarks.zoo.tasks.ppocr_cls",
                source="_lines",
                item='{"x": image}',
                names="image, _",
                arguments=f"{1000 + seed}, {samples}",
                test=f"{5000 + seed}, {LINES}",
            )
        )
        return Data(("--data", f"{path}:feeds"), ("--metric", f"{path}:metric"))
    if not name.startswith("mnist_"):
        return Data(
            ("--data", feeds_of(name, folder, samples)), ("--metric", f"{task(name).__name__}:metric")
        )
    digits = ("--data", str(EXAMPLES / "calibration.npz"), "--samples", str(samples))
    return Data(digits, ("--test", str(EXAMPLES / "test.npz"), "--metric", "top1"))


def student_of(name: str, form: str, seed: int, folder: Path) -> Path:
    """Make a student by the command line, on as much data as the training gets."""
    result, original = folder / f"{name}-{form}-{seed}.onnx", str(model_path(name).resolve())
    data, seeds = data_of(name, seed, folder, SAMPLES), ("--seed", str(seed))
    where = ("-o", str(result), "--force")
    if form.endswith("x"):
        onnxslim("prune", original, *where, *data.data, *data.score, *seeds, "--target-macs", form)
        return result
    if form == "binary":  # one sign for every weight, however much that loses
        one = ("--weights", "binary:1", "--mode", "weight-only", "--max-drop", "1.0")
        onnxslim("quantize", original, *where, *data.data, *seeds, *one)
        return result
    if form == "int8":
        onnxslim("quantize", original, *where, *data.data, *seeds, "--mode", "static")
        return result
    recipe = folder / f"{form}.toml"
    recipe.write_text(FORMS[form])
    onnxslim("run", str(recipe), original, *where, "--no-verify")
    return result


def randomised(student: Path, seed: int) -> Path:
    """A student of the same shape that knows nothing: weights as a training would begin with."""
    model, rng = load(student), np.random.default_rng(seed)
    for product in products_of(model):
        weight = constant_value(product.weight)
        assert weight is not None
        scale = np.sqrt(0.7 / product.dims[1])  # sums of residual branches must not grow
        replace_initializer(product.weight, (scale * rng.standard_normal(weight.shape)).astype(np.float32))
        if product.bias is not None and product.bias.is_initializer():
            replace_initializer(product.bias, np.zeros(product.bias.shape.numpy(), np.float32))  # type: ignore[union-attr]
    path = student.with_name(f"random-{student.name}")
    save(model, path, force=True)
    return path


def distil(row: str, control: str, seed: int, folder: Path, options: Sequence[str]) -> Run:
    """Make a student, train it, and score all three.

    Raises:
        RuntimeError: a command fails.
    """
    name, _, form = row.partition(":")
    student = student_of(name, form, seed, folder)
    if control == "random weights":
        student = randomised(student, seed)
    original, result = model_path(name).resolve(), folder / "distilled.onnx"
    data = data_of(name, seed, folder, FEW if control == "64 inputs" else SAMPLES)
    begun = time.monotonic()
    report = onnxslim(
        *("distill", str(student), "--teacher", str(original), "-o", str(result), "--force"),
        *(*data.data, *data.score, "--seed", str(seed), *options),
    )
    seconds, metric = time.monotonic() - begun, report["metric"]
    noises = [sqnr_db(original, file, task(name).held_out()) for file in (student, result)]
    scores = metric["teacher"], metric["before"], metric["after"]
    return Run(row, control, seed, *scores, *noises, seconds)


def cells(runs: Sequence[Run]) -> tuple[str, ...]:
    """The row of several seeds."""
    after = [run.after for run in runs]
    means: Mapping[str, float] = {
        key: float(np.mean([getattr(run, key) for run in runs]))
        for key in ("original", "before", "after", "start_db", "sqnr_db", "seconds")
    }
    scores = (f"{means[key]:.4f}" for key in ("original", "before", "after"))
    spread = f"{min(after):.4f}-{max(after):.4f}"
    last = f"{means['start_db']:.1f}", f"{means['sqnr_db']:.1f}", f"{means['seconds']:.0f}"
    return runs[0].row, runs[0].control or "-", str(len(runs)), *scores, spread, *last


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROWS", help=f"default: {', '.join(ROWS)}")
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that was fetched")
    parser.add_argument("--seeds", type=int, default=3, help="how many runs of each row")
    parser.add_argument("--time", default="60s", help="of each training")
    parser.add_argument("--steps", help="of each training, instead of a time")
    parser.add_argument("--threads", default="2", help="of each training")
    parser.add_argument("--controls", action="store_true", help="of pruned rows, too")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where distillation.md and .json go")
    given = parser.parse_args(arguments)
    rows = given.rows or ROWS
    check_names(parser, [row.partition(":")[0] for row in rows])
    use(given.zoo)
    length = ("--steps", given.steps) if given.steps else ("--time", given.time)
    table, all_runs, failed = "", list[Run](), 0
    lines: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            controls = ("random weights", "64 inputs") if given.controls and row.endswith("x") else ()
            for control in ("", *controls):
                try:
                    runs = [
                        distil(row, control, seed, Path(folder), (*length, "--threads", given.threads))
                        for seed in range(given.seeds)
                    ]
                except (RuntimeError, FileNotFoundError) as error:
                    failed += 1
                    print(f"{row}: {error}", file=sys.stderr)
                    continue
                all_runs += runs
                lines.append(cells(runs))
                table = markdown(HEADER, lines)
                write(given.results, "distillation", table, all_runs)
                print("  ".join(lines[-1]), file=sys.stderr, flush=True)
    if table:
        print(table)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
