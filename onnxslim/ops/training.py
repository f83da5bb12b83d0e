"""Losses and optimizers."""

from __future__ import annotations

from onnxslim.ops.spec import OpSpec

__all__ = ["SPECS"]

_PREVIEW = "ai.onnx.preview.training"

SPECS = (
    OpSpec(op_type="NegativeLogLikelihoodLoss"),
    OpSpec(op_type="SoftmaxCrossEntropyLoss"),
    *(OpSpec(op_type=name, domain=_PREVIEW) for name in ("Adagrad", "Adam", "Momentum")),
)
