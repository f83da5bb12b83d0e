"""The cheapest way to cut a directed graph in two: which choices to make when neighbours should agree."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Hashable, Iterable

__all__ = ["min_cut"]

_EPSILON = 1e-9


def min_cut(
    edges: Iterable[tuple[Hashable, Hashable, float]], source: Hashable, sink: Hashable
) -> set[Hashable]:
    """The vertices on the source's side of a cheapest cut; the smallest such set.

    Edmonds and Karp, "Theoretical improvements in algorithmic efficiency for network flow problems", 1972,
    with the levels of Dinic: shortest augmenting paths first.

    Args:
        edges: (from, to, capacity); parallel edges add up, ``inf`` is never cut.

    Raises:
        ValueError: source and sink are joined by edges that cannot be cut.

    Example:
        >>> sorted(min_cut([("s", "a", 3.0), ("a", "b", 1.0), ("b", "t", 2.0)], "s", "t"))
        ['a', 's']
    """
    residual: dict[Hashable, dict[Hashable, float]] = {source: {}, sink: {}}
    for start, end, capacity in edges:
        residual.setdefault(start, {}).setdefault(end, 0.0)
        residual[start][end] += capacity
        residual.setdefault(end, {}).setdefault(start, 0.0)
    while True:
        level = _levels(residual, source)
        if sink not in level:
            return set(level)
        untried = {vertex: list(nexts) for vertex, nexts in residual.items()}
        while path := _path(residual, level, untried, source, sink):
            steps = list(itertools.pairwise(path))
            flow = min(residual[a][b] for a, b in steps)
            if math.isinf(flow):
                raise ValueError("source and sink cannot be separated")
            for a, b in steps:
                residual[a][b] -= flow
                residual[b][a] += flow


def _levels(residual: dict[Hashable, dict[Hashable, float]], source: Hashable) -> dict[Hashable, int]:
    level = {source: 0}
    queue = deque([source])
    while queue:
        vertex = queue.popleft()
        for other, capacity in residual[vertex].items():
            if capacity > _EPSILON and other not in level:
                level[other] = level[vertex] + 1
                queue.append(other)
    return level


def _path(
    residual: dict[Hashable, dict[Hashable, float]],
    level: dict[Hashable, int],
    untried: dict[Hashable, list[Hashable]],
    source: Hashable,
    sink: Hashable,
) -> list[Hashable]:
    """One path along rising levels, or nothing; dead ends are not tried again."""
    path = [source]
    while path[-1] != sink:
        vertex = path[-1]
        nexts = untried[vertex]
        while nexts and not (
            residual[vertex][nexts[-1]] > _EPSILON and level.get(nexts[-1], -1) == level[vertex] + 1
        ):
            nexts.pop()
        if nexts:
            path.append(nexts[-1])
        elif vertex == source:
            return []
        else:
            path.pop()
            untried[path[-1]].pop()
    return path
