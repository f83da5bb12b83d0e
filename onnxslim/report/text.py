"""Numbers and names as text, and the table of text that every form of a report is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Table",
    "bounds",
    "change",
    "clip",
    "counted",
    "duration",
    "finite",
    "number",
    "printable",
    "ratio",
    "size",
]

_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_TIMES = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))


@dataclass(frozen=True, slots=True)
class Table:
    """Title, heads and rows; ``align`` has ``l`` or ``r`` per column, by default text, then quantities."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str = ""

    def __post_init__(self) -> None:
        if not self.align:
            object.__setattr__(self, "align", "l" + "r" * (len(self.head) - 1))

    def first(self, limit: int, what: str = "rows") -> Table:
        """The first rows, and in place of the others how many they are; a single one is no longer than that.

        Example:
            >>> Table("Sizes", ("name", "n"), (("a", "1"), ("b", "2"), ("c", "3"))).first(1).rows
            (('a', '1'), ('... 2 more rows (all in --json)', ''))
        """
        left = len(self.rows) - limit
        if left <= 1:
            return self
        last = (f"... {left:,} more {what} (all in --json)", *[""] * (len(self.head) - 1))
        return Table(self.title, self.head, (*self.rows[:limit], last), self.align)


def size(count: float) -> str:
    """Bytes in decimal units.

    Example:
        >>> size(22_900_000), size(512)
        ('22.9 MB', '512 B')
    """
    for unit, factor in _UNITS:
        if count >= factor:
            return (
                f"{count / factor:.3g} {unit}" if count < 999.5 * factor else f"{count / factor:.0f} {unit}"
            )
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them.

    Example:
        >>> duration(0.00123), duration(75)
        ('1.23 ms', '75 s')
    """
    unit, factor = next((u for u in _TIMES if seconds >= u[1]), _TIMES[-1])
    scaled = seconds / factor
    return f"{scaled:.3g} {unit}" if scaled < 999.5 else f"{scaled:.0f} {unit}"


def number(value: object) -> str:
    """A count with thousands separated, a fraction with four digits, ``-`` for what is unknown."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def counted(count: int, singular: str, plural: str = "") -> str:
    """A count and its noun.

    Example:
        >>> counted(1, "round"), counted(1200, "round")
        ('1 round', '1,200 rounds')
    """
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def change(count: float, unit: str = "") -> str:
    """A difference with its sign, of bytes where ``unit`` is ``B``.

    Example:
        >>> change(-3), change(0), change(2e6, "B")
        ('-3', '0', '+2 MB')
    """
    shown = size(abs(count)) if unit == "B" else number(abs(count))
    return f"{'-' if count < 0 else '+'}{shown}" if count else "0"


def finite(value: Any) -> float | None:
    """A number that can be drawn or compared; None for everything else.

    Example:
        >>> finite(2), finite("inf"), finite(float("nan"))
        (2.0, None, None)
    """
    if value is None or isinstance(value, str):
        return None
    found = float(value)
    return found if math.isfinite(found) else None


def bounds(value: Any) -> tuple[float, float] | None:
    """The two ends of an interval; None where there is none.

    Example:
        >>> bounds([0.9, 1.1]), bounds(None)
        ((0.9, 1.1), None)
    """
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    low, high = finite(value[0]), finite(value[1])
    return None if low is None or high is None else (low, high)


def ratio(value: Any, interval: Any = None, digits: int = 3) -> str:
    """A ratio and, where known, its interval.

    Example:
        >>> ratio(0.36, (0.35, 0.37)), ratio(None)
        ('0.360 [0.350, 0.370]', '-')
    """
    found, ends = finite(value), bounds(interval)
    if found is None:
        return "-"
    return f"{found:.{digits}f}" + (f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]" if ends else "")


def printable(text: str) -> str:
    """One line without control characters; names in a model are whatever its author wanted.

    Example:
        >>> printable("a\\x1b[31m\\nb")
        'a?[31m b'
    """
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def clip(text: str, limit: int) -> str:
    """Text of at most ``limit`` characters; a longer one keeps its two ends, which tell names apart.

    Example:
        >>> clip("encoder/layer.0/attention/MatMul", 16)
        'encod...n/MatMul'
    """
    if len(text) <= limit:
        return text
    tail = limit // 2
    return f"{text[: limit - tail - 3]}...{text[-tail:]}"
