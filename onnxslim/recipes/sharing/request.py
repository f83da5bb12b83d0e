"""What a user asks of sharing, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxslim.errors import OptionError
from onnxslim.recipes.budget import Drop, Target, parse_drop
from onnxslim.recipes.pruning.merging import Into
from onnxslim.recipes.pruning.targets import Goal

__all__ = ["ShareRequest", "request_of"]

_ERROR = "error="


@dataclass(frozen=True)
class ShareRequest:
    """One run; see :func:`onnxslim.share` for the meaning."""

    merge: Goal | None = None
    into: Into = "many"
    tolerance: float | None = None
    scaled: bool = True
    codebook: int | None = None
    vectors: int = 1
    functions: bool = False
    drop: Drop | None = None
    metric: str | None = None
    output: str | None = None
    threads: int = 1
    verify_limit: int = 10**9
    seed: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether nothing but what is equal bit for bit is to be shared."""
        return self.merge is None and self.tolerance is None and self.codebook is None


def request_of(
    *,
    merge_neurons: str | float | None,
    tolerance: float | None,
    codebook: int | None,
    vectors: int | None = None,
    max_drop: str | float | Drop | None,
    **given: Any,
) -> ShareRequest:
    """Read the arguments of :func:`onnxslim.share`.

    Raises:
        OptionError: a number is out of its range, or a budget is given where nothing can be lost.

    Example:
        >>> nothing = dict(tolerance=None, codebook=None, max_drop=None)
        >>> request_of(merge_neurons="error=0.05", **nothing).merge
        Goal(kind='error', target=Target(value=0.05, kind='absolute'))
    """
    if tolerance is not None and not 0 < tolerance < 1:
        raise OptionError(f"--tolerance {tolerance:g} is no relative error", hint="write it like 1e-3")
    if codebook is not None and not 2 <= codebook <= 256:
        raise OptionError(f"--codebook {codebook} is out of range", hint="a table has 2 to 256 values")
    if vectors is not None and codebook is None:
        raise OptionError("--vectors says what a table holds", hint="add --codebook 256")
    if vectors not in (None, 2, 4, 8):
        raise OptionError(f"--vectors {vectors} is no length of a vector", hint="write 2, 4 or 8")
    request = ShareRequest(
        merge=None if merge_neurons is None else _goal(merge_neurons),
        tolerance=tolerance,
        codebook=codebook,
        vectors=vectors or 1,
        drop=None if max_drop is None else parse_drop(max_drop),
        **given,
    )
    if request.is_exact and request.drop is not None:
        raise OptionError(
            "exact sharing loses nothing",
            hint="--max-drop goes with --tolerance, --merge-neurons or --codebook",
        )
    return request


def _goal(text: str | float) -> Goal:
    is_error = isinstance(text, str) and text.startswith(_ERROR)
    number = text.removeprefix(_ERROR) if isinstance(text, str) else text
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise OptionError(
            f"--merge-neurons {text} says neither how many nor how near",
            hint="write 0.1 for a share of the channels, or error=0.05 for a relative error",
        )
    return Goal("error", Target(value, "absolute")) if is_error else Goal("ratio", Target(value, "ratio"))
