"""Remove channels from every tensor that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from onnxslim._ir import ir
from onnxslim.passes.base import Pass, Promise

__all__ = ["PruneChannels"]


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove atoms of groups of channels (:func:`onnxslim.analysis.channels.find_groups`).

    The result computes what the model would with these channels masked: every sum over channels leaves them
    out.  Weights, integers that hold sizes, and attributes (``group``, ``hidden_size``, ...) shrink; the
    interface stays.
    """

    name: ClassVar[str] = "prune-channels"
    promise: ClassVar[Promise] = Promise.LOSSY
    remove: Mapping[str, Sequence[int]] = field(
        default_factory=dict, metadata={"help": "key of a group -> atoms to remove"}
    )
    residual: bool = field(default=False, metadata={"help": "also channels that a normalisation averages over"})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, modified=False)
