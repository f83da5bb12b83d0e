"""Fourier transforms."""

from __future__ import annotations

from onnxslim.ops.spec import OpSpec

__all__ = ["SPECS"]

SPECS = (OpSpec(op_type="DFT"), OpSpec(op_type="STFT"))
