"""Weights of 4 bits: ours beside onnxruntime's MatMulNBits, rounded to nearest and by GPTQ.

    python -m benchmarks.weights [NAMES...] --zoo ROOT

Weights are fitted on half of the 64 calibration inputs and gated on the other; noise and time are those of
other inputs.  Ours are stored in 4 bits and computed in float; MatMulNBits computes from 4 bits.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import onnx

from benchmarks.compress import sqnr_db
from benchmarks.writing import RESULTS, markdown, write
from benchmarks.zoo.layout import TASKS, check_names, model_path, task, use
from benchmarks.zoo.scoring import Feed
from onnxslim.measure.latency import measure_latency
from onnxslim.model.io import load, save
from onnxslim.recipes.candidates import candidates
from onnxslim.recipes.engine import run_steps
from onnxslim.recipes.named import simplify_steps

MODELS = ("minilm_fp32", "mnist_vit")  # what is done by default
FEEDS = 64
BLOCK = 32
HEADER = ("model", "method", "SQNR dB", "bytes", "time", "95 %")


@dataclass(frozen=True)
class Row:
    """A method's result; bytes and time as ratios to the original."""

    model: str
    method: str
    sqnr_db: float = 0.0
    bytes: float = 0.0
    time: float = 0.0
    interval: tuple[float, float] = (0.0, 0.0)
    failure: str = ""

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        if self.failure:
            return self.model, self.method, self.failure, "", "", ""
        low, high = self.interval
        numbers = f"{self.sqnr_db:.1f}", f"{self.bytes:.3f}", f"{self.time:.3f}", f"{low:.3f}-{high:.3f}"
        return self.model, self.method, *numbers


def ours(source: Path, feeds: Sequence[Feed], folder: Path) -> Iterator[tuple[str, Path]]:
    """The candidates of weights that ``onnxslim compress`` tries, with and without second moments."""
    base = run_steps(load(source), simplify_steps()).model
    half = len(feeds) // 2
    for data in (None, feeds[:half]):
        for candidate in candidates(base, None, mode="weight-only", data=data, feeds=feeds[half:]):
            target = folder / f"ours-{len(list(folder.iterdir()))}.onnx"
            if data is None or "GPTQ" in candidate.name:
                save(run_steps(base, candidate.passes).model, target)
                yield f"ours: {candidate.name}", target


def nearest(source: Path, feeds: Sequence[Feed], target: Path, symmetric: bool) -> None:
    """MatMulNBits, rounded to nearest."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(source), bits=4, block_size=BLOCK, is_symmetric=symmetric)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target))


def gptq(source: Path, feeds: Sequence[Feed], target: Path) -> None:
    """MatMulNBits by onnxruntime's own GPTQ.

    It imports torch, only to recognise tensors of it; where that is missing, an empty module stands in.
    """
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        GPTQWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self.left, None)

        def rewind(self) -> None:
            self.left = iter(feeds)

    stand_in: Any = types.ModuleType("torch")
    stand_in.Tensor = type("Tensor", (), {})
    sys.modules.setdefault("torch", stand_in)
    algorithm = GPTQWeightOnlyQuantConfig(Reader(), block_size=BLOCK)
    quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=BLOCK, algo_config=algorithm)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target))


PEERS: dict[str, Callable[[Path, Sequence[Feed], Path], None]] = {
    "MatMulNBits": lambda source, feeds, target: nearest(source, feeds, target, True),
    "MatMulNBits, zero points": lambda source, feeds, target: nearest(source, feeds, target, False),
    "MatMulNBits, its GPTQ": gptq,
}


def rows(name: str, folder: Path, budget_s: float) -> Iterator[Row]:
    """Of one model; a peer that fails is a row with its reason."""
    source, module = model_path(name), task(name)
    feeds = list(islice(module.inputs(FEEDS), FEEDS))
    held_out = list(module.held_out())
    whole = folder / "original.onnx"
    onnx.save(onnx.load(source), whole)

    def judged(row: Row, target: Path) -> Row:
        measured = measure_latency(whole, target, feeds=held_out[:4], threads=1, budget_s=budget_s)
        noise, size = sqnr_db(whole, target, held_out), target.stat().st_size / whole.stat().st_size
        return replace(row, sqnr_db=noise, bytes=size, time=measured.ratio, interval=measured.interval)

    made = folder / "ours"
    made.mkdir()
    for method, target in ours(whole, feeds, made):
        yield judged(Row(name, method), target)
    for method, build in PEERS.items():
        target = folder / f"{method}.onnx"
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it draws progress bars
                build(whole, feeds, target)
        except Exception as error:  # a peer raises whatever it stumbles over
            yield Row(name, method, failure=f"{type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        yield judged(Row(name, method), target)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAMES", help=f"of {', '.join(TASKS)}; default {', '.join(MODELS)}"
    )
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that was fetched")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where weights.md and .json go")
    parser.add_argument("--budget", type=float, default=20, help="seconds of timing for each file")
    given = parser.parse_args(arguments)
    check_names(parser, given.names)
    use(given.zoo)
    logging.getLogger("onnxruntime.quantization").setLevel(logging.WARNING)
    found: list[Row] = []
    for name in given.names or MODELS:
        with tempfile.TemporaryDirectory() as temporary:
            for row in rows(name, Path(temporary), given.budget):
                found.append(row)
                print(": ".join(row.cells()[:3]), file=sys.stderr)
                write(given.results, "weights", markdown(HEADER, [r.cells() for r in found]), found)
    print(markdown(HEADER, [row.cells() for row in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
