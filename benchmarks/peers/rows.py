"""What became of one model by one method, as it is stored and shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.writing import markdown

MAX_DROP = 0.01  # what a result may lose of the score, absolute
HEADER = ("model", "method", "score before", "after", "n", "95 %", "SQNR dB", "bytes", "time", "95 %", "note")


@dataclass(frozen=True)
class Row:
    """One method on one model; without a result, its figures are those of the model that is kept.

    Args:
        sha256: of the original.
        versions: what decides the result, and what judged it.
        threads: of the runtime while it was timed.
        failure: why there is no result, or none that can be judged.
        before: score of the original.
        after: score of the result, of ``n`` things, with its interval.
        sqnr_db: signal to noise of the worst output on inputs that nothing was fitted to.
        bytes: size / size of the original.
        time: time / time of the original, with its interval.
    """

    model: str
    method: str
    sha256: str
    versions: tuple[str, ...]
    threads: int
    failure: str = ""
    before: float = math.nan
    after: float = math.nan
    n: int | None = None
    after_interval: tuple[float, float] | None = None
    sqnr_db: float = math.inf
    bytes: float = 1.0
    time: float = 1.0
    time_interval: tuple[float, float] = (1.0, 1.0)

    @property
    def lost(self) -> bool:
        """Whether it lost more of the score than it may."""
        return not self.failure and not self.before - self.after <= MAX_DROP + 1e-9  # NaN is lost too

    @property
    def holds(self) -> bool:
        """Whether there is a result that one would use."""
        return not self.failure and not self.lost

    def measured_like(self, other: Row) -> bool:
        """Whether another row tells the same: same model, versions and threads."""
        return all(getattr(self, key) == getattr(other, key) for key in ("sha256", "versions", "threads"))

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        if self.failure:
            reason = " ".join(self.failure.split()).replace("|", "/")
            return (self.model, self.method, *["-"] * 8, reason[:120])
        low, high = self.after_interval or (math.nan, math.nan)
        return (
            self.model,
            self.method,
            f"{self.before:.4f}",
            f"{self.after:.4f}",
            str(self.n),
            f"{low:.3f}-{high:.3f}",
            f"{self.sqnr_db:.1f}",
            f"{self.bytes:.3f}",
            f"{self.time:.3f}",
            f"{self.time_interval[0]:.3f}-{self.time_interval[1]:.3f}",
            "lost" if self.lost else "",
        )


def table(rows: Iterable[Row]) -> str:
    """All rows, in Markdown."""
    return markdown(HEADER, [row.cells() for row in rows])


def load(path: Path) -> list[Row]:
    """Rows from a file of results; none where there is no file.

    Raises:
        ValueError: it was not written by this version.
    """
    if not path.is_file():
        return []
    try:
        return [_restored(values) for values in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} was written by another version: move it away") from error


def _restored(values: dict[str, Any]) -> Row:
    """A row from JSON, which has neither tuples nor infinity."""
    restored: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    for key in ("before", "after", "sqnr_db"):
        restored[key] = float(restored[key])
    return Row(**restored)
