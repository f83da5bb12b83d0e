"""Operators whose outputs differ from run to run, whatever seed they carry: the runtime keeps its state."""

from __future__ import annotations

from onnxslim.ops.spec import OpSpec

__all__ = ["SPECS"]

SPECS = tuple(
    OpSpec(op_type=name, deterministic=False, foldable=False)
    for name in (
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    )
)
