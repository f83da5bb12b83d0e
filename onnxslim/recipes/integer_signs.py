"""Binary weights behind integer kernels: the bits of signs in the file, the speed of int8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from onnxslim.passes.binarize_weights import BinarizeWeights
from onnxslim.passes.quantize_static import QuantizeStatic
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.passes.replace_weights import ReplaceWeights
from onnxslim.recipes.candidate import Candidate
from onnxslim.recipes.engine import Step
from onnxslim.recipes.storage import Choices

__all__ = ["integer_signs"]

_SAME_DB = 25.0  # sums of signs in 8 bits are such sums again, but for the rounding of scales


def integer_signs(binary: Candidate, quantize: QuantizeStatic) -> Candidate:
    """A candidate whose float weights are those of ``binary`` before they are quantized.

    What then has int8 weights stores their signs with whole-numbered scales, decoded to int8 at load; what
    stays in float is stored as in ``binary``.
    """
    assert binary.storage is not None
    choices = _Choices(binary.storage, quantize)
    return Candidate(
        f"{binary.name}, static int8, {quantize.method} ranges",
        binary.head,
        choices.steps(choices.levels[0]),
        essential=quantize.name,
        storage=choices,
    )


@dataclass(frozen=True)
class _Choices:
    """Those of ``floats``, with their products quantized."""

    floats: Choices
    quantize: QuantizeStatic

    @property
    def levels(self) -> Sequence[float]:
        return self.floats.levels

    @property
    def noises(self) -> Mapping[str, Sequence[tuple[float, float]]]:
        return self.floats.noises

    def steps(self, sqnr_db: float) -> tuple[Step, ...]:
        steps = self.floats.steps(sqnr_db)
        weights: dict[str, npt.NDArray[Any]] = {}
        biases: dict[str, npt.NDArray[Any]] = {}
        packing: list[Step] = []
        for step in steps:
            if isinstance(step, ReplaceWeights):
                weights |= step.weights
                biases |= step.biases
                continue
            packing.append(step)
            if isinstance(step, BinarizeWeights):
                forms = {name: step.known[name] for name in step.only if name in step.known}
                weights |= {name: form.decode() for name, form in forms.items()}
                integers = tuple(f"{name}_quantized" for name in forms)
                packing.append(replace(step, only=integers, known={}, block=0, min_sqnr_db=_SAME_DB))
        raised = RaiseOpset(opset=self.quantize.min_opset)
        return (ReplaceWeights(weights, biases), raised, self.quantize, *packing)
