"""onnxruntime's percentile calibrator on a folder of feeds, in a process of its own, with one thread.

python -m benchmarks.calibration_peer MODEL FOLDER SAMPLES
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """The first feeds of a folder."""

    def __init__(self, folder: Path, count: int) -> None:
        self._files = iter(sorted(folder.glob("*.npz"))[:count])

    def get_next(self) -> dict[str, np.ndarray] | None:
        file = next(self._files, None)
        if file is None:
            return None
        with np.load(file) as arrays:
            return dict(arrays)


def main(arguments: Sequence[str] | None = None) -> int:
    model, folder, count = sys.argv[1:] if arguments is None else arguments
    with tempfile.TemporaryDirectory() as scratch:
        augmented = str(Path(scratch) / "augmented.onnx")
        calibrator = create_calibrator(
            model,
            augmented_model_path=augmented,
            calibrate_method=CalibrationMethod.Percentile,
        )
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1  # else idle threads spin, and count
        calibrator.infer_session = ort.InferenceSession(augmented, options, ["CPUExecutionProvider"])
        calibrator.collect_data(Reader(Path(folder), int(count)))
        print(len(calibrator.compute_data().data), "ranges")
    return 0


if __name__ == "__main__":
    sys.exit(main())
