"""What a user asks of ``compress`` and ``quantize``, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxslim.errors import OptionError
from onnxslim.passes.quantize_static import Activations
from onnxslim.recipes.budget import Drop, Target
from onnxslim.recipes.candidates import parse_weights
from onnxslim.recipes.search import Objective

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """What the user asked for, read and checked; see :func:`onnxslim.compress` for the meaning."""

    drop: Drop
    min_sqnr: float = 0.0
    mode: str = "compress"
    weights: str = "int8"
    activations: Activations = ""
    metric: str | None = None
    output: str | None = None
    latency: Target | None = None
    size: Target | None = None
    objective: Objective = "both"
    seconds: float = 600.0
    threads: tuple[int, ...] = (1,)
    target: str | None = None
    verify_limit: int = 10**9
    seed: int = 0
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    integer_io: bool = False
    sign_inputs: bool = False
    prune: bool = False
    distill: float | None = None

    def __post_init__(self) -> None:
        parse_weights(self.weights)
        if not 0 <= self.min_sqnr < math.inf:
            raise OptionError(
                f"--min-sqnr must be a number of decibels, not {self.min_sqnr}", hint="such as 40"
            )
        if self.distill is not None and not self.prune:
            raise OptionError(
                "there is nothing to distill: what is trained is what --prune leaves",
                hint="add --prune, or use `onnxslim quantize --distill`",
            )
