"""How much a node has to do, in the units that its cost is a sum of."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Work", "convolution", "product"]


@dataclass(frozen=True, slots=True)
class Work:
    """What a node does; see :class:`onnxslim.runtime.targets.target.Cost` for the units."""

    mac: float = 0.0
    rest: float = 0.0
    tap: float = 0.0
    weight: float = 0.0
    output: float = 0.0


def convolution(positions: float, inputs: int, channels: int, kernel: int, *, block: int = 1) -> Work:
    """The work of a convolution.

    Args:
        positions: output positions, all images together.
        inputs: input channels that an output channel adds up; 1 if depthwise.
        channels: output channels.
        kernel: positions of the kernel.
        block: output channels that are computed at once.

    Example:
        >>> convolution(100, 8, 24, 9, block=16)
        Work(mac=115200, rest=115200, tap=900, weight=1728, output=2400)
    """
    whole, last = _blocks(channels, block)
    each = positions * inputs * kernel
    return Work(
        each * whole, each * last, positions * kernel, inputs * channels * kernel, positions * channels
    )


def product(rows: float, inner: int, columns: int, *, block: int = 1) -> Work:
    """The work of ``[rows, inner]`` times a constant ``[inner, columns]``.

    Example:
        >>> product(2, 8, 16, block=16)
        Work(mac=256, rest=0, tap=0.0, weight=128, output=32)
    """
    whole, last = _blocks(columns, block)
    each = rows * inner
    return Work(each * whole, each * last, weight=inner * columns, output=rows * columns)


def _blocks(channels: int, block: int) -> tuple[int, int]:
    """Channels in whole blocks, and in the last one, which is computed whole too."""
    whole = channels // block * block
    return whole, block if whole < channels else 0
