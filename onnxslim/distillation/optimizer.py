"""How weights follow their gradients: Adam or plain descent, a schedule, and a bound on the gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Optimizer", "OptimizerName", "clip", "global_norm", "schedule"]

Array = npt.NDArray[Any]
OptimizerName = Literal["adam", "sgd"]

_FIRST, _SECOND, _EPSILON = 0.9, 0.999, 1e-8  # of Adam, as its authors have them
_MOMENTUM = 0.9


def schedule(step: int, steps: int, warm_up: int) -> float:
    """The share of the learning rate at a step: a linear warm-up, then half a cosine down to zero.

    Example:
        >>> [round(schedule(step, 10, 2), 3) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


def global_norm(gradients: Mapping[str, Array]) -> float:
    """The length of all gradients together, as one vector; not finite where one of them is not."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.sqrt(sum(float(np.vdot(g, g)) for g in gradients.values()))


def clip(gradients: Mapping[str, Array], longest: float, norm: float | None = None) -> dict[str, Array]:
    """The gradients, shortened together where they are longer than ``longest``.

    Example:
        >>> clip({"a": np.array([3.0, 4.0], np.float32)}, 1.0)["a"]
        array([0.6, 0.8], dtype=float32)
    """
    norm = global_norm(gradients) if norm is None else norm
    if norm <= longest:
        return dict(gradients)
    return {name: gradient * np.float32(longest / norm) for name, gradient in gradients.items()}


@dataclass
class Optimizer:
    """The moments of every parameter; :meth:`update` moves the parameters in place.

    Example:
        >>> weights = {"w": np.array([1.0], np.float32)}
        >>> Optimizer().update(weights, {"w": np.array([5.0], np.float32)}, 0.1)
        >>> weights["w"].round(3)
        array([0.9], dtype=float32)
    """

    name: OptimizerName = "adam"
    steps: int = 0
    moments: dict[str, Array] = field(default_factory=dict)

    def update(self, parameters: Mapping[str, Array], gradients: Mapping[str, Array], rate: float) -> None:
        """One step of length ``rate`` down ``gradients``."""
        self.steps += 1
        for name, gradient in gradients.items():
            move = self._adam(name, gradient) if self.name == "adam" else self._descent(name, gradient)
            parameters[name][...] -= np.float32(rate) * move

    def _adam(self, name: str, gradient: Array) -> Array:
        """Source: Kingma and Ba, "Adam: a method for stochastic optimization", algorithm 1."""
        first, second = self._moment(f"{name}/1", gradient), self._moment(f"{name}/2", gradient)
        first += np.float32(1 - _FIRST) * (gradient - first)
        second += np.float32(1 - _SECOND) * (gradient * gradient - second)
        first_share, second_share = 1 - _FIRST**self.steps, 1 - _SECOND**self.steps
        root = np.sqrt(second / np.float32(second_share)) + np.float32(_EPSILON)
        return np.asarray(first / np.float32(first_share) / root)

    def _descent(self, name: str, gradient: Array) -> Array:
        velocity = self._moment(f"{name}/1", gradient)
        velocity *= np.float32(_MOMENTUM)
        velocity += gradient
        return velocity

    def _moment(self, key: str, like: Array) -> Array:
        if key not in self.moments:
            self.moments[key] = np.zeros_like(like)
        return self.moments[key]
