"""Binary weights at given budgets: ``onnxslim quantize --weights binary`` on real models, beside few bits.

    python -m benchmarks.binary [NAMES...] --zoo ROOT [--drops 0.01,0.03] [--kinds binary,int4,int2]

Everything goes through the command line, as for a user, and nothing is trained.  The result is scored once,
in plain onnxruntime, on data that nothing was chosen by.  Bits are those of the whole file for each parameter
of the model: 32 times the ratio of the files.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.compress import onnxslim, sqnr_db
from benchmarks.writing import RESULTS, tabulate
from benchmarks.zoo.layout import check_names, model_path, task, use

MODELS = ("mnist_resnet14", "mnist_mobilenetv2", "mnist_vit", "ppocr_cls", "opennsfw", "minilm_fp32")
SAMPLES = 256
HEADER = (
    "model",
    "weights",
    "budget",
    "bits",
    "bytes",
    "time",
    "95 %",
    "before",
    "after",
    "SQNR dB",
    "s",
    "kept",
)


@dataclass(frozen=True)
class Row:
    """One quantized model; ``size`` and ``ratio`` (of times) are relative to the original."""

    model: str
    kind: str
    drop: float
    size: float
    ratio: float
    interval: tuple[float, float]
    before: float
    after: float
    sqnr_db: float
    seconds: float
    kept: str

    @property
    def bits(self) -> float:
        """Of the file, for each 32 of the original's."""
        return 32 * self.size

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        low, high = self.interval
        sizes = f"{self.drop:g}", f"{self.bits:.2f}", f"{self.size:.3f}", f"{self.ratio:.3f}"
        scores = f"{self.before:.4f}", f"{self.after:.4f}", f"{self.sqnr_db:.1f}", f"{self.seconds:.0f}"
        return self.model, self.kind, *sizes, f"{low:.3f}-{high:.3f}", *scores, self.kept


def quantize(name: str, kind: str, drop: float, folder: Path) -> Row:
    """Quantize one model by the command line and judge the result.

    Raises:
        RuntimeError: the command fails.
    """
    original, result, module = model_path(name).resolve(), folder / f"{name}.onnx", task(name)
    data = folder / f"{name}_feeds.py"
    data.write_text(f"from {module.__name__} import inputs\n\n\ndef feeds():\n    return inputs({SAMPLES})\n")
    begun = time.monotonic()
    report = onnxslim(
        *("quantize", str(original), "-o", str(result), "--force", "--mode", "weight-only"),
        *("--data", f"{data}:feeds", "--metric", f"{module.__name__}:metric"),
        *("--weights", kind, "--max-drop", str(drop), "--time", "2h"),
    )
    seconds = time.monotonic() - begun
    latency = report["latency"] or {"ratio": 1.0, "interval": (1.0, 1.0)}
    kept = [tried["name"] for tried in report["tried"] if tried["kept"]]
    return Row(
        name,
        kind,
        drop,
        result.stat().st_size / original.stat().st_size,
        latency["ratio"],
        (latency["interval"][0], latency["interval"][1]),
        module.score(str(original)).value,
        module.score(str(result)).value,
        sqnr_db(original, result, module.held_out()),
        seconds,
        kept[0] if kept else "nothing",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that was fetched")
    parser.add_argument("--drops", default="0.01,0.03", help="what the metric may lose")
    parser.add_argument("--kinds", default="binary,int4,int2", help="types of weights")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where binary.md and .json go")
    given = parser.parse_args(arguments)
    names = given.names or MODELS
    check_names(parser, names)
    use(given.zoo)
    drops = [float(drop) for drop in given.drops.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            (name, partial(quantize, name, kind, drop, Path(folder)))
            for name, kind, drop in itertools.product(names, given.kinds.split(","), drops)
        ]
        return tabulate("binary", given.results, HEADER, jobs)


if __name__ == "__main__":
    sys.exit(main())
