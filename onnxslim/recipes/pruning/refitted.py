"""What became of a product or a normalisation behind what was removed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Refitted"]


@dataclass(frozen=True)
class Refitted:
    """What became of one product: the share of the output's energy that is wrong, on held-out rows.

    ``declined`` is why it was left as it is.
    """

    name: str
    before: float
    after: float
    damping: float | None
    declined: str = ""
