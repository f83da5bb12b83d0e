"""``onnxslim share`` on real models: what is shared, what it saves, what it costs.

    python -m benchmarks.sharing TABLE... --zoo ROOT [--models NAMES] [--environments FOLDER]

The tables: ``exact`` (the whole zoo, bit by bit), ``many`` (up to 100,000 initializers), ``copies`` (models
whose weights were exported twice, other tools beside), ``near``, ``codebook``, ``vectors`` and ``merge``,
``large`` (3 GB of weights, and the memory that it takes).  What a user would do goes through the command
line; results are scored again in plain onnxruntime, on inputs that nothing was fitted to.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from benchmarks import copies
from benchmarks.compress import onnxslim, sqnr_db
from benchmarks.environments import ONNXSLIM, environment
from benchmarks.writing import RESULTS, markdown, write
from benchmarks.zoo.layout import TASKS, model_path, task, use
from onnxslim.calibration.data import open_feeds
from onnxslim.measure.latency import measure_latency
from onnxslim.model.io import load, save
from onnxslim.passes.codebook_weights import CodebookWeights
from onnxslim.passes.pack_weights import PackWeights
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.recipes.api import compare
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.few_bits import moments_of
from onnxslim.recipes.fitted_weights import fitted_books, fitted_codes
from onnxslim.recipes.named import simplify_steps
from onnxslim.recipes.pruning.samples import held
from onnxslim.recipes.storage import CODES_OPSET

SAMPLES = 512
Rows = Iterator[tuple[str, ...]]


@dataclass(frozen=True)
class Setting:
    """What the tables are made with."""

    folder: Path
    environments: Path
    models: tuple[str, ...]
    shares: tuple[float, ...] = (0.1, 0.2, 0.3)

    def chosen(self, *default: str) -> tuple[str, ...]:
        """The models of a table."""
        return tuple(name for name in default if not self.models or name in self.models)

    def feeds(self, name: str, samples: int = SAMPLES) -> str:
        """The inputs of a model as an option of the command line."""
        module = task(name).__name__
        data = self.folder / f"{name}_feeds.py"
        data.write_text(f"from {module} import inputs\n\n\ndef feeds():\n    return inputs({samples})\n")
        return f"{data}:feeds"


def exact(setting: Setting) -> Rows:
    """Exact sharing on every model, compared bit by bit with optimizations off."""
    for name in setting.chosen(*TASKS):
        try:
            original = model_path(name).resolve()
        except FileNotFoundError:
            continue
        result = setting.folder / f"{name}.onnx"
        report = onnxslim("share", str(original), "-o", str(result), "--force")
        feeds = list(itertools.islice(task(name).inputs(2), 2))
        checked = compare(original, result, feeds, promise="exact")
        before, after = report["input"]["bytes"], report["output"]["bytes"]
        yield name, f"{before:,}", f"{after:,}", f"{after / before:.4f}", "yes" if checked.ok else "NO"


def many(setting: Setting) -> Rows:
    """Time against the number of initializers, half of which are copies."""
    for count in (1_000, 10_000, 100_000):
        path = setting.folder / "many.onnx"
        onnx.save(copies.many(count), path)
        begun = time.process_time()
        child = _children()
        report = onnxslim("share", str(path), "-o", str(path.with_name("out.onnx")), "--force", "--no-verify")
        seconds = time.process_time() - begun + _children() - child
        ratio = report["output"]["bytes"] / path.stat().st_size
        yield f"{count:,}", f"{seconds:.1f}", f"{1e6 * seconds / count:.0f}", f"{ratio:.3f}"


def copied(setting: Setting) -> Rows:
    """Weights that were exported more than once, ours and other tools."""
    for name, build in copies.KINDS.items():
        path = setting.folder / "copies.onnx"
        onnx.save(build(), path)
        size = path.stat().st_size
        tools: list[tuple[str, Callable[[Path, Path], None]]] = [
            ("onnxslim share", _ours),
            ("OnnxSlim", lambda a, b: _slim(setting, a, b)),
            ("onnx_ir", lambda a, b: _onnx_ir(a, b, 1024)),
            ("onnx_ir, no limit", lambda a, b: _onnx_ir(a, b, 1 << 62)),
        ]
        for tool, run in tools:
            target = setting.folder / "tool.onnx"
            target.unlink(missing_ok=True)
            try:
                run(path, target)
            except (RuntimeError, subprocess.SubprocessError) as error:
                yield name, tool, f"{size:,}", "fails", "", str(error)[:40]
                continue
            after = target.stat().st_size
            same = compare(path, target, promise="exact").ok
            yield name, tool, f"{size:,}", f"{after:,}", f"{after / size:.3f}", "yes" if same else "no"


def _ours(source: Path, target: Path) -> None:
    onnxslim("share", str(source), "-o", str(target))


def _slim(setting: Setting, source: Path, target: Path) -> None:
    requirements = (ONNXSLIM, "onnxruntime==1.32.0", "onnx==1.23.2")
    command = environment("OnnxSlim-with-onnxruntime", requirements, setting.environments) / "onnxslim"
    subprocess.run([str(command), str(source), str(target)], check=True, capture_output=True, timeout=600)


def _onnx_ir(source: Path, target: Path, limit: int) -> None:
    common = importlib.import_module("onnx_ir.passes.common")
    save(common.DeduplicateInitializersPass(size_limit=limit)(load(source)).model, target)


def near(setting: Setting) -> Rows:
    """What differs by a relative error, as equals (one-to-one) and as multiples (one-to-many)."""
    for name in setting.chosen("mnist_resnet14", "minilm_fp32", "ppocr_rec"):
        for tolerance, form in itertools.product(("1e-3", "1e-1"), ("--one-to-one", "")):
            options = ("--tolerance", tolerance, *filter(None, (form,)))
            report, scores = _shared(setting, name, options, samples=64)
            found = re.search(r"off by (\S+) at most, outputs by (\S+)", " ".join(report["notes"]))
            bounds = found.groups() if found else ("-", "-")
            many = "one" if form else "many"
            yield name, many, tolerance, f"{_ratio(report):.4f}", *bounds, *scores


def codebook(setting: Setting) -> Rows:
    """Codebooks beside even levels in as many bytes, each by second moments of the same inputs."""
    forms: dict[str, Any] = {
        "codebook 16": CodebookWeights(16),
        "int4, blocks of 32": PackWeights(4, 32),
        "codebook 256": CodebookWeights(256),
        "int8, blocks of 32": PackWeights(8, 32),
    }
    for name in setting.chosen("opennsfw", "minilm_fp32", "ppocr_rec"):
        yield from _stored(setting, name, forms)


def vectors(setting: Setting) -> Rows:
    """Product quantization, by the command line, beside single values in about as many bytes."""
    forms: dict[str, Any] = {
        "codebook 16": CodebookWeights(16),
        "int4, blocks of 128": PackWeights(4, 128),
        "256 vectors of 2": ("--codebook", "256", "--vectors", "2"),
        "codebook 4": CodebookWeights(4),
        "int2, blocks of 128": PackWeights(2, 128),
        "256 vectors of 4": ("--codebook", "256", "--vectors", "4"),
    }
    for name in setting.chosen("minilm_fp32", "ppocr_rec"):
        yield from _stored(setting, name, forms)


def _stored(setting: Setting, name: str, forms: Mapping[str, Any]) -> Rows:
    """A model with all its weights in each of the forms, passes or options of ``share``, however noisy."""
    original, module = model_path(name).resolve(), task(name)
    head = (*simplify_steps(), RaiseOpset(opset=CODES_OPSET))
    base = run_steps(load(original), head).model
    inputs = list(module.inputs(128))
    fitted, feeds = moments_of(base, inputs[:96], inputs[96:]), setting.feeds(name, len(inputs))
    for label, form in forms.items():
        target = setting.folder / "codebook.onnx"
        if isinstance(form, tuple):
            onnxslim("share", str(original), "-o", str(target), "--force", "--data", feeds, *form)
            yield name, label, *_judged(original, target, module)
            continue
        noisy = {"narrow_sqnr_db": 0.0} if isinstance(form, PackWeights) else {}
        loose = replace(form, min_sqnr_db=0.0, inputs=fitted.inputs, held_out=fitted.held_out, **noisy)
        samples = held(open_feeds(inputs, base))
        if isinstance(form, CodebookWeights):
            [loose] = fitted_books(base, samples, [loose])
        else:
            [known] = fitted_codes(base, samples, (form.bits,), form.block)
            loose = replace(loose, known=known)
        save(run_steps(base, (loose,)).model, target, force=True)
        yield name, label, *_judged(original, target, module)


def _judged(original: Path, target: Path, module: ModuleType) -> tuple[str, ...]:
    feeds = list(itertools.islice(iter(module.held_out()), 4))
    latency = measure_latency(str(original), str(target), feeds=feeds, threads=1, budget_s=10.0)
    low, high = latency.interval
    return (
        f"{target.stat().st_size / original.stat().st_size:.4f}",
        f"{sqnr_db(original, target, module.held_out()):.1f}",
        f"{module.score(str(original)).value:.4f}",
        f"{module.score(str(target)).value:.4f}",
        f"{latency.ratio:.3f}",
        f"{low:.3f}-{high:.3f}",
    )


def merge(setting: Setting) -> Rows:
    """Merged neurons, and other ways to lose channels, at equal multiply-accumulates."""
    for name in setting.chosen("mnist_resnet14", "mnist_mobilenetv2", "ppocr_cls"):
        for share in setting.shares:
            macs = None
            for label, options in _WAYS.items():
                goal = ("--merge-neurons", str(share)) if macs is None else ("--target-macs", f"{macs}x")
                verb = "share" if macs is None else "prune"
                try:
                    report, scores = _shared(setting, name, (*goal, *options), verb)
                except RuntimeError as error:
                    yield name, f"{share:g}", label, "fails", str(error).splitlines()[0][:30], "", ""
                    continue
                found = report["after"]["macs"] / report["before"]["macs"]
                macs = macs or found
                yield name, f"{share:g}", label, f"{found:.3f}", *scores


_WAYS: dict[str, tuple[str, ...]] = {
    "merged into many": (),
    "merged into one": ("--criterion", "merge-pairs", "--no-reconstruct"),
    "plain": ("--criterion", "reconstruction", "--no-reconstruct"),
    "ridge": ("--criterion", "reconstruction"),
    "merged, then ridge": ("--criterion", "merge"),
}


def _shared(
    setting: Setting, name: str, options: Sequence[str], verb: str = "share", samples: int = SAMPLES
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The report, and metric before and after, and noise, of other inputs."""
    original, module = model_path(name).resolve(), task(name)
    result = setting.folder / f"{name}.onnx"
    report = onnxslim(
        *(verb, str(original), "-o", str(result), "--force", "--data", setting.feeds(name, samples)),
        *("--metric", f"{module.__name__}:metric", *options),
    )
    noise = f"{sqnr_db(original, result, module.held_out()):.1f}"
    before, after = report["metric"]["before"], report["metric"]["after"]
    return report, (f"{before:.4f}", f"{after:.4f}", noise)


def _ratio(report: dict[str, Any]) -> float:
    return float(report["output"]["bytes"] / report["input"]["bytes"])


def large(setting: Setting) -> Rows:
    """A model of 3 GB of which a half is copies: bytes, and the most memory that was resident."""
    path, target = setting.folder / "large.onnx", setting.folder / "large-out.onnx"
    copies.write_large(path, count=24)
    size = sum(file.stat().st_size for file in setting.folder.glob("large.onnx*"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    begun = time.monotonic()
    onnxslim("share", str(path), "-o", str(target), "--force")
    seconds = time.monotonic() - begun
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    after = sum(file.stat().st_size for file in setting.folder.glob("large-out.onnx*"))
    for file in setting.folder.glob("large*"):
        file.unlink()
    yield f"{size / 1e9:.2f}", f"{after / 1e9:.2f}", f"{max(peak, before) / 1024:.0f}", f"{seconds:.0f}"


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


_STORED = ("model", "form", "bytes", "SQNR dB", "before", "after", "time", "95 %")
TABLES: dict[str, tuple[Callable[[Setting], Rows], tuple[str, ...]]] = {
    "exact": (exact, ("model", "bytes", "shared", "ratio", "bit-equal")),
    "many": (many, ("initializers", "CPU s", "us each", "bytes")),
    "copies": (copied, ("model", "tool", "bytes", "after", "ratio", "bit-equal")),
    "near": (
        near,
        ("model", "one to", "asked", "bytes", "weights off", "outputs off", "before", "after", "SQNR dB"),
    ),
    "codebook": (codebook, _STORED),
    "vectors": (vectors, _STORED),
    "merge": (merge, ("model", "share", "way", "MACs", "before", "after", "SQNR dB")),
    "large": (large, ("GB", "shared", "peak MB", "s")),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", choices=[*TABLES], metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that was fetched")
    parser.add_argument("--models", default="", help="comma-separated; default those of each table")
    parser.add_argument("--shares", default="0.1,0.2,0.3", help="of channels to merge")
    parser.add_argument("--environments", type=Path, default=Path("environments"), help="of other tools")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where sharing-TABLE.md and .json go")
    given = parser.parse_args(arguments)
    use(given.zoo)
    models = tuple(filter(None, given.models.split(",")))
    with tempfile.TemporaryDirectory() as folder:
        shares = tuple(float(share) for share in given.shares.split(","))
        setting = Setting(Path(folder), given.environments.resolve(), models, shares)
        for name in given.tables:
            make, header = TABLES[name]
            rows: list[tuple[str, ...]] = []
            for row in make(setting):
                rows.append(row)
                print("  ".join(row), file=sys.stderr, flush=True)
                write(given.results, f"sharing-{name}", markdown(header, rows), rows)
            print(f"\n{name}\n\n{markdown(header, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
