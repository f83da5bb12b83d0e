"""Integer inputs and outputs on real models: the same bits as the QDQ model?

    python -m benchmarks.integer_io [NAMES...] --zoo ROOT

Two recipes go through the command line, which differ in their last pass, ``integer-io``.  On inputs that
nothing was calibrated on, both models run in plain onnxruntime with its optimizations off: one on integers,
the other on the floats that they stand for by the model's metadata, as the arithmetic of this file reads
them.  The exit code is 1 where a bit differs or an input or output is still float.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.compress import onnxslim
from benchmarks.writing import RESULTS, markdown, write
from benchmarks.zoo.layout import TASKS, check_names, model_path, task, use
from benchmarks.zoo.scoring import Array, Feed

HEADER = ("model", "inputs", "outputs", "values", "bit-equal", "bytes", "SQNR dB")
MODELS = ("mnist_resnet14", "opennsfw", "ppocr_cls")
QDQ = ("simplify", "raise-opset", "quantize-static", "pack-weights", "quantize-ports")
_TYPES = {"tensor(uint8)": np.uint8, "tensor(int8)": np.int8}


@dataclass(frozen=True)
class Row:
    """What became of one model: its ports, how many values were compared, and whether all bits agree."""

    model: str
    inputs: str
    outputs: str
    values: int
    equal: bool
    ratio: float
    sqnr_db: float

    @property
    def good(self) -> bool:
        """Whether every input and output is an integer one and nothing differs."""
        return self.equal and self.values > 0 and "float" not in self.inputs + self.outputs

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        return (
            self.model,
            self.inputs,
            self.outputs,
            str(self.values),
            "yes" if self.equal else "NO",
            f"{self.ratio:.3f}",
            f"{self.sqnr_db:.1f}",
        )


def recipe(path: Path, passes: Sequence[str]) -> str:
    """Write a recipe of passes without options."""
    path.write_text("".join(f'[[pass]]\nname = "{name}"\n' for name in passes), encoding="utf-8")
    return str(path)


def open_plain(path: str | Path) -> ort.InferenceSession:
    """A session that computes node by node."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Ports:
    """How the integers of a model stand for floats, from its metadata."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._metadata = session.get_modelmeta().custom_metadata_map

    def _of(self, stem: str) -> tuple[np.float32, int] | None:
        scale = self._metadata.get(f"{stem}.scale")
        return None if scale is None else (np.float32(scale), int(self._metadata[f"{stem}.zero_point"]))

    def integers(self, name: str, value: Array, kind: str) -> Array:
        """An input in the type that the model takes."""
        found = self._of(f"input.{name}")
        if found is None:
            return value
        limits = np.iinfo(_TYPES[kind])
        steps = np.rint(value / found[0]) + found[1]
        return np.clip(steps, limits.min, limits.max).astype(_TYPES[kind])

    def floats(self, stem: str, value: Array) -> Array:
        """What an input or output stands for."""
        found = self._of(stem)
        return value if found is None else (value.astype(np.float32) - found[1]) * found[0]


def judge(name: str, original: Path, qdq: Path, integer: Path, feeds: Iterable[Feed]) -> Row:
    """Compare the two models on ``feeds``, and the integer one with the original."""
    sessions = [open_plain(path) for path in (original, qdq, integer)]
    kinds = {port.name: port.type for port in sessions[2].get_inputs()}
    outputs = [port.name for port in sessions[2].get_outputs()]
    ports = Ports(sessions[2])
    equal, values, signal, noise = True, 0, 0.0, 0.0
    for feed in feeds:
        integers = {key: ports.integers(key, value, kinds[key]) for key, value in feed.items()}
        floats = {key: ports.floats(f"input.{key}", value) for key, value in integers.items()}
        wanted, found = sessions[1].run(outputs, floats), sessions[2].run(outputs, integers)
        for output, real, one, two in zip(
            outputs, sessions[0].run(outputs, feed), wanted, found, strict=True
        ):
            two = ports.floats(f"output.{output}", two)
            equal &= one.dtype == two.dtype and one.tobytes() == two.tobytes()
            values += one.size
            signal += float(np.sum(np.square(real, dtype=np.float64)))
            noise += float(np.sum(np.square(np.subtract(real, two, dtype=np.float64))))
    shown = [
        ", ".join(f"{port.name} {port.type[7:-1]}" for port in side)
        for side in (sessions[2].get_inputs(), sessions[2].get_outputs())
    ]
    ratio = integer.stat().st_size / original.stat().st_size
    return Row(name, *shown, values, equal, ratio, 10 * np.log10(signal / noise) if noise else np.inf)


def convert(name: str, original: Path, data: str, feeds: Iterable[Feed], folder: Path) -> Row:
    """Run both recipes on a model, and compare what they make."""
    found = []
    for stem, passes in (("qdq", QDQ), ("integer", (*QDQ, "integer-io"))):
        made = folder / f"{name}.{stem}.onnx"
        steps = recipe(folder / f"{stem}.toml", passes)
        onnxslim("run", steps, str(original), "-o", str(made), "--force", "--data", data, "--samples", "32")
        found.append(made)
    return judge(name, original, *found, feeds)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ", ".join(MODELS)
    parser.add_argument(
        "names", nargs="*", metavar="NAMES", help=f"any of {', '.join(TASKS)}; default {default}"
    )
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that was fetched")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where integer_io.md and .json go")
    given = parser.parse_args(arguments)
    check_names(parser, given.names)
    use(given.zoo)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.names or MODELS:
            module = task(name)
            path = model_path(name).resolve()
            rows.append(
                convert(name, path, f"{module.__name__}:inputs", module.held_out(16), Path(temporary))
            )
            write(given.results, "integer_io", markdown(HEADER, [row.cells() for row in rows]), rows)
    print(markdown(HEADER, [row.cells() for row in rows]))
    return int(not all(row.good for row in rows))


if __name__ == "__main__":
    sys.exit(main())
