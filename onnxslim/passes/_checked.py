"""Take back, before anything is written, what the runtime would not make an integer kernel of."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["refusals"]

_MAX_ROUNDS = 4

Refused = dict[str, str]


def refusals(missed: Callable[[Mapping[str, str]], Refused]) -> Refused:
    """What has to stay in float, with reasons, by the name of its output.

    Args:
        missed: plans without what is refused so far, lets the runtime build that, and says what it computes
            in float after all.  What is left is placed anew each time, and may miss in another way.

    Example:
        >>> refusals(lambda known: {} if "b" in known else {"b" if known else "a": "float"})
        {'a': 'float', 'b': 'float'}
    """
    refused: Refused = {}
    for _ in range(_MAX_ROUNDS):
        found = missed(refused)
        if not found:
            break
        refused |= found
    return refused
