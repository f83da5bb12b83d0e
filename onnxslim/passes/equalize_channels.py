"""Move numbers between the constants around a value, so that all its channels fit one scale."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.shapes import infer
from onnxslim.analysis.streams import Stream, find_streams
from onnxslim.calibration.store import Calibration
from onnxslim.errors import OptionError
from onnxslim.passes._scaling import scale_channels, seen
from onnxslim.passes.base import Pass, Promise
from onnxslim.reconstruct.equalize import column_reach, powers_of_two, row_reach

__all__ = ["EqualizeChannels"]

Array = npt.NDArray[Any]

_DEVIATIONS = 3
_TINY = 1e-30


@dataclass(frozen=True)
class EqualizeChannels(Pass):
    """Let the channels of activations have similar ranges, at equal outputs: 8 bits then serve all of them.

    1. Where producers and readers of a value scale its channels by constants (weights, biases, the affine
       part of a normalization), the producers' are multiplied and the readers' divided, by one factor per
       channel.  Between them may stand what is positively homogeneous: Relu, pools, sums, depthwise filters.
    2. Factors are powers of two, so that every bit of the outputs stays.
    3. They make ``reach ** balance * column ** (balance - 1)`` alike for all channels: ``reach`` is how far a
       channel's values go, ``column`` the largest weight that it is multiplied with, relative to the largest
       of the same output channel.  With 0.5 that is cross-layer equalization (Nagel et al., "Data-Free
       Quantization Through Weight Equalization and Bias Correction", 2019) and the migration of SmoothQuant
       (Xiao et al., 2022); with 1, activations alone decide.

    Without a calibration, the largest weight of a producing filter stands for the reach of its channel.
    Of the calibration, the values' means and deviations are read; it is of the model as it comes in.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[1,2] x) => (float[1,1] y) <float[2,2] a = {1,64,1,64}, float[2,1] b = {1,1}> {
        ...     h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }'''))
        >>> EqualizeChannels()(model).modified, model.graph.initializers["a"].const_value.numpy().tolist()
        (True, [[1.0, 8.0], [1.0, 8.0]])
    """

    name: ClassVar[str] = "equalize-channels"
    promise: ClassVar[Promise] = Promise.CLOSE

    calibration: Calibration | None = field(default=None, metadata={"help": "how far channels go"})
    balance: float = field(default=0.5, metadata={"help": "from 0, for the weights alone, to 1, for the activations"})

    def __post_init__(self) -> None:
        if not 0 <= self.balance <= 1:
            raise OptionError(f"balance must lie between 0 and 1, not {self.balance}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, scale_channels(model, self.factors(model)))

    def factors(self, model: ir.Model) -> dict[str, Array]:
        """What the channels of each stream are to be multiplied by, under the name of its first value."""
        found = {}
        for stream in find_streams(model.graph, infer(model)):
            scales = powers_of_two(self._reach(stream), _columns(stream), self.balance)
            if (scales != 1).any():
                found[stream.name] = scales
        return found

    def _reach(self, stream: Stream) -> Array:
        """How far each channel goes, relative to the one that goes furthest; the most of all its values."""
        observed = [self._observed(value.name or "", stream.channels) for value, _ in stream.values]
        made = [row_reach(seen(part), part.factors) for part in stream.parts if not part.divides]
        known = [each for each in observed if each is not None] or made
        return np.asarray(np.max([each / max(each.max(), _TINY) for each in known], axis=0))

    def _observed(self, name: str, channels: int) -> Array | None:
        """Three standard deviations beyond the mean."""
        if self.calibration is None or name not in self.calibration:
            return None
        moments = self.calibration.moments(name)
        if moments is None or moments.mean.shape != (channels,):
            return None
        return np.asarray(np.abs(moments.mean) + _DEVIATIONS * np.sqrt(moments.variance))


def _columns(stream: Stream) -> Array:
    columns = [column_reach(seen(part), part.factors) for part in stream.parts if part.divides]
    return np.asarray(np.max(columns, axis=0))
