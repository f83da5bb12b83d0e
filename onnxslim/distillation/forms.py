"""What a weight is: the floats that a training step sees, the parameters behind them, how they are stored.

A form has ``parameters``, which the optimizer moves in place.  ``value`` makes the weight that the step sees
of them, ``pull`` turns the gradient of that weight into theirs, and ``store`` writes them into the model, in
the types and shapes that were there before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.extract import named_values
from onnxslim.model import edit

__all__ = ["Coded", "Codes", "Form", "Grown", "Plain", "Scale", "replace_stored"]

Array = npt.NDArray[Any]

_INSIDE = 0.999  # of what is rounded to a code: where latent floats lie at first


class Grown(Protocol):
    """What has grown in training, and others with it."""

    def ratio(self) -> np.float32:
        """By how much."""


class Form(Protocol):
    """How one weight is stored."""

    @property
    def name(self) -> str:
        """The stored tensor of its floats or codes."""

    @property
    def kind(self) -> str:
        """What reports call it."""

    @property
    def parameters(self) -> dict[str, Array]:
        """What is trained, float32 each; moved in place."""

    def value(self) -> Array:
        """The weight, in float32."""

    def pull(self, gradient: Array) -> dict[str, Array]:
        """The gradients of the parameters, from that of the weight."""

    def store(self, model: ir.Model) -> None:
        """Write the parameters into a model."""


@dataclass
class Plain:
    """A stored tensor of floats, of 32 bits or fewer.

    Attributes:
        name: of the stored value.
        latent: what is trained.
        dtype: of the stored tensor: the weight is rounded to it.
    """

    name: str
    latent: npt.NDArray[np.float32]
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))

    @property
    def kind(self) -> str:
        return "floats" if self.dtype == np.float32 else str(self.dtype)

    @property
    def parameters(self) -> dict[str, Array]:
        return {"weight": self.latent}

    def value(self) -> Array:
        return self.latent if self.dtype == np.float32 else self._rounded().astype(np.float32)

    def pull(self, gradient: Array) -> dict[str, Array]:
        return {"weight": gradient}

    def store(self, model: ir.Model) -> None:
        replace_stored(model, self.name, self._rounded())

    def _rounded(self) -> Array:
        return self.latent.astype(self.dtype)


@dataclass(frozen=True)
class Codes:
    """Where the codes of a weight lie in a stored tensor of integers.

    Attributes:
        name: of the stored value.
        stored: its content as bytes, one for each element.
        dtype: of its elements.
        index: for each element of the weight, the stored element that holds its code.
        shift: and at which bit the code begins.
        width: bits of a code.
        low, high: the range of the codes.
        step: from one code to the next; signs are two apart.
    """

    name: str
    stored: Array
    index: npt.NDArray[np.int64]
    shift: npt.NDArray[np.uint8]
    width: int
    low: int
    high: int
    step: int = 1

    @property
    def levels(self) -> int:
        """How many different codes there are."""
        return (self.high - self.low) // self.step + 1

    def nearest(self, exact: Array) -> Array:
        """The codes nearest to numbers.

        Example:
            >>> none = np.zeros(1, np.int64)
            >>> signs = Codes("w", np.zeros(1, np.int8), none, np.zeros(1, np.uint8), 8, -1, 1, step=2)
            >>> signs.nearest(np.array([0.2, -7.0]))
            array([ 1., -1.])
        """
        if self.step == 1:  # without a detour by the lowest code, next to which those of a bias are small
            return np.clip(np.rint(exact), self.low, self.high)
        places = np.rint((exact - self.low) / self.step)
        return np.asarray(self.low + self.step * np.clip(places, 0, self.levels - 1))

    def read(self) -> npt.NDArray[np.int64]:
        """The codes, one for each element of the weight."""
        fields = self._bytes().reshape(-1)[self.index].astype(np.int64) >> self.shift
        codes = fields & ((1 << self.width) - 1)
        return (
            codes if self.low >= 0 else np.where(codes >> (self.width - 1), codes - (1 << self.width), codes)
        )

    def packed(self, codes: Array) -> Array:
        """The stored tensor with other codes; what else its bytes hold stays.

        Example:
            >>> stored = np.array([0b00_01_10_11], np.uint8)
            >>> where = np.zeros(4, np.int64), np.array([0, 2, 4, 6], np.uint8)
            >>> codes = Codes("w", stored, *where, 2, 0, 3)
            >>> codes.read().tolist(), bin(codes.packed(np.array([1, 1, 1, 1]))[0])
            ([3, 2, 1, 0], '0b1010101')
        """
        mask = (1 << self.width) - 1
        flat = self._bytes().reshape(-1).astype(np.int64)
        flat = flat & ~self._summed(np.full(self.index.shape, mask, np.int64))
        whole = np.clip(np.asarray(codes, np.int64), self.low, self.high)  # floats reach beyond 32 bits
        flat |= self._summed(whole & mask)
        if self.stored.dtype.kind in "iu":
            return flat.astype(self._unsigned()).view(self.stored.dtype).reshape(self.stored.shape)
        signed = np.where(flat >> (self.width - 1), flat - (1 << self.width), flat) if self.low < 0 else flat
        return signed.astype(np.int8).astype(self.stored.dtype).reshape(self.stored.shape)

    def _bytes(self) -> Array:
        if self.stored.dtype.kind in "iu":
            return self.stored.view(self._unsigned())
        return self.stored.astype(np.int8).view(np.uint8)  # a type that numpy lacks

    def _unsigned(self) -> np.dtype[Any]:
        return np.dtype(f"u{self.stored.dtype.itemsize}")

    def _summed(self, fields: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Fields, which never overlap, at their places in the stored elements."""
        total = np.bincount(self.index, (fields << self.shift).astype(np.float64), self.stored.size)
        return total.astype(np.int64)


@dataclass(frozen=True)
class Scale:
    """What codes are multiplied with.

    Attributes:
        name: of the stored value; empty where it is not trained.
        stored: its content.
        group: for each element of the weight, the stored element that scales it.
    """

    name: str
    stored: Array
    group: npt.NDArray[np.int64]


@dataclass
class Coded:
    """A weight of few bits, ``unit * (code - zero)``: latent floats are rounded to the nearest code.

    Gradients go straight through the rounding; those of the scales are as in Esser et al., "Learned step size
    quantization", and the scales are trained by their logarithms, so that they keep their sign.

    Attributes:
        codes: where the codes lie.
        scale: what they are multiplied with.
        unit: of each element of the weight: by how much it grows with its code, at the scale as stored.
        zero: the code of zero, of each element.
        shape: of the weight.
        follows: what is trained elsewhere and multiplies the unit; the weight stays, and its codes change.
    """

    codes: Codes
    scale: Scale
    unit: npt.NDArray[np.float32]
    zero: npt.NDArray[np.float32]
    shape: tuple[int, ...]
    follows: Grown | None = None

    def __post_init__(self) -> None:
        level = self.codes.read() - self.zero
        self.latent = (self.unit * level).astype(np.float32)
        self.growth = np.zeros(self.scale.stored.size, np.float32)  # logarithms: of scales over stored ones

    @property
    def name(self) -> str:
        return self.codes.name

    def remember(self, original: Array) -> None:
        """Let the latent floats be what the codes were rounded from, as far as they round to these codes."""
        unit, half = self._unit(), _INSIDE * self.codes.step / 2
        codes = self._codes(unit)
        exact = np.divide(original.reshape(-1), unit, out=np.zeros_like(self.latent), where=unit != 0)
        kept = np.clip(exact + self.zero, codes - half, codes + half)
        self.latent[:] = unit * (kept - self.zero)

    @property
    def kind(self) -> str:
        levels = self.codes.levels
        return "signs" if levels == 2 else f"codes of {max(levels - 1, 1).bit_length()} bits"

    @property
    def parameters(self) -> dict[str, Array]:
        found: dict[str, Array] = {"weight": self.latent}
        if self.scale.name:
            found["scale"] = self.growth
        return found

    def value(self) -> Array:
        unit = self._unit()
        return np.asarray((unit * (self._codes(unit) - self.zero)).reshape(self.shape), np.float32)

    def pull(self, gradient: Array) -> dict[str, Array]:
        flat, unit = gradient.reshape(-1), self._unit()
        exact = self._exact(unit)
        beyond = self.codes.step / 2
        within = (exact >= self.codes.low - beyond) & (exact <= self.codes.high + beyond)
        found: dict[str, Array] = {"weight": np.where(within, flat, np.float32(0))}
        if self.scale.name:
            level = self._codes(unit) - self.zero
            level = np.where(within, level - (exact - self.zero), level)
            each = (flat * level * unit).astype(np.float64)
            found["scale"] = np.bincount(self.scale.group, each, len(self.growth)).astype(np.float32)
        return found

    def store(self, model: ir.Model) -> None:
        replace_stored(model, self.codes.name, self.codes.packed(self._codes(self._unit())))
        if self.scale.name:
            replace_stored(model, self.scale.name, self.scales())

    def gap(self) -> Array:
        """From one code to the next, of each element."""
        return self.codes.step * np.abs(self.unit)

    def ends(self) -> tuple[Array, Array]:
        """The weight with all codes at their lowest, and at their highest."""
        unit = self._unit()
        return unit * (self.codes.low - self.zero), unit * (self.codes.high - self.zero)

    def scales(self) -> Array:
        """The scales as they are now, in the type and shape in which they are stored."""
        grown = self.scale.stored.astype(np.float32).reshape(-1) * np.exp(self.growth)
        return grown.astype(self.scale.stored.dtype).reshape(self.scale.stored.shape)

    def _unit(self) -> npt.NDArray[np.float32]:
        if self.follows is not None:
            return self.unit * self.follows.ratio()
        if not self.scale.name:
            return self.unit
        before = self.scale.stored.astype(np.float32).reshape(-1)
        after = self.scales().astype(np.float32).reshape(-1)
        ratio = np.divide(after, before, out=np.ones_like(after), where=before != 0)
        return np.asarray(self.unit * ratio[self.scale.group], np.float32)

    def _exact(self, unit: Array) -> Array:
        """The codes before they are rounded."""
        level = np.divide(self.latent, unit, out=np.zeros_like(self.latent), where=unit != 0)
        return np.asarray(level + self.zero)

    def _codes(self, unit: Array) -> Array:
        return self.codes.nearest(self._exact(unit))


def replace_stored(model: ir.Model, name: str, content: Array) -> None:
    """Give a stored tensor of a model another content, of the same shape."""
    value = model.graph.initializers.get(name) or named_values(model.graph)[name]
    before = edit.constant_value(value)
    assert before is not None
    edit.replace_constant(value, content.reshape(before.shape))
