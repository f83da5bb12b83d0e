"""The minimum cut against every possible cut."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from onnxslim.analysis.mincut import min_cut

Edge = tuple[str, str, float]


def cost(edges: list[Edge], side: set[str]) -> float:
    return sum(capacity for start, end, capacity in edges if start in side and end not in side)


def cheapest(edges: list[Edge], inner: list[str]) -> float:
    choices = (set(c) | {"s"} for n in range(len(inner) + 1) for c in itertools.combinations(inner, n))
    return min(cost(edges, side) for side in choices)


@pytest.mark.parametrize("seed", range(40))
def test_no_cut_is_cheaper(seed: int) -> None:
    generator = random.Random(seed)
    inner = [f"v{i}" for i in range(6)]
    vertices = ["s", *inner, "t"]
    edges = [
        (*generator.sample(vertices, 2), generator.choice([1.0, 2.5, 7.0, 0.0, math.inf])) for _ in range(16)
    ]
    edges = [edge for edge in edges if edge[:2] != ("s", "t") or not math.isinf(edge[2])]
    best = cheapest(edges, inner)
    if math.isinf(best):
        with pytest.raises(ValueError, match="cannot be separated"):
            min_cut(edges, "s", "t")
    else:
        side = min_cut(edges, "s", "t")
        assert "s" in side and "t" not in side
        assert cost(edges, side) == pytest.approx(best)


def test_a_long_chain_needs_no_recursion() -> None:
    edges = [(str(i), str(i + 1), 1.0 + (i != 3000)) for i in range(5000)]
    assert len(min_cut(edges, "0", "5000")) == 3001
