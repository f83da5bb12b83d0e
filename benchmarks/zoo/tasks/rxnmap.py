"""A graph transformer that maps the atoms of a chemical reaction: closeness to the original's attention.

There are no labels: made-up molecules, each a random tree of atoms, as reactant and as product.
1 - |difference| / |original| over sixteen of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.zoo.scoring import Feed, open_session, reference, resampled
from onnxslim.measure.metrics import MetricResult

_ATOMS = [8, 9, 10, 19]  # carbon, nitrogen, oxygen, chlorine: atomic number + 2
_SHARES = [0.7, 0.12, 0.13, 0.05]
_REACTANT, _PRODUCT = 2, 3
_APART, _FAR = 1, 10  # codes of distances: of different molecules; of eight bonds and more


def inputs(n: int = 32) -> Iterator[Feed]:
    """Reactions to calibrate on."""
    return _reactions(3, n)


def held_out(n: int = 32) -> Iterator[Feed]:
    """Other reactions."""
    return _reactions(11, n)


def score(path: str) -> MetricResult:
    """Mean closeness to the original's attention over sixteen reactions; 1 is equal."""
    session, original = open_session(path), reference("rxnmap")
    closeness = []
    for feed in _reactions(11, 16):
        found, wanted = (each.run(None, feed)[0].astype(np.float64) for each in (session, original))
        closeness.append(1 - np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    return resampled(closeness, lambda rows: float(rows.mean()))


def metric(path: str) -> float:
    """Closeness of the model at a path to the original."""
    return score(path).value


def _reactions(seed: int, count: int) -> Iterator[Feed]:
    random = np.random.RandomState(seed)
    for _ in range(count):
        size = int(random.randint(8, 24))
        parents = [int(random.randint(0, atom)) for atom in range(1, size)]
        atoms = random.choice(_ATOMS, size, p=_SHARES)
        bonds = _bonds(parents)
        neighbours = (bonds == 1).sum(1) + 2
        distances = np.full((2 * size, 2 * size), _APART)
        distances[:size, :size] = distances[size:, size:] = np.minimum(bonds + 2, _FAR)
        feed = {
            "atoms": np.tile(atoms, 2),
            "neighbors": np.tile(neighbours, 2),
            "distances": distances,
            "roles": np.repeat([_REACTANT, _PRODUCT], size),
        }
        yield {key: value[None].astype(np.int64) for key, value in feed.items()}


def _bonds(parents: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """How many bonds lie between any two atoms of a tree; ``parents`` are those of atoms 1, 2, ...

    Example:
        >>> _bonds([0, 1])
        array([[0, 1, 2],
               [1, 0, 1],
               [2, 1, 0]])
    """
    found = np.zeros((1, 1), np.int64)
    for parent in parents:  # a new atom is one bond farther from all others than its parent is
        row = found[parent] + 1
        found = np.block([[found, row[:, None]], [row, np.zeros(1, np.int64)]])
    return found
