"""Layouts of axes: whatever is said to be equal stays equal, index by index, whichever atoms are removed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim.analysis.channels.layout import (
    Cell,
    Layout,
    Reason,
    Unifier,
    join,
    times,
    walk,
)
from onnxslim.analysis.channels.places import keep, occurrences

# equalities, and which part (from where) each cut is of what
Statements = tuple[list[tuple[Layout, Layout]], list[tuple[Layout, int, Layout]]]


def indices(layout: Layout, removed: dict[Cell, np.ndarray]) -> np.ndarray:
    """Which indices stay, straight from the definition: by recursion over the parts."""
    layout = walk(layout)
    if isinstance(layout, Cell):
        return removed.get(layout, np.ones(layout.size or 0, bool))
    masks = [indices(part, removed) for part in layout.parts]
    if not layout.is_product:
        return np.concatenate(masks)
    result = np.ones(1, bool)
    for mask in masks:
        result = np.array([a and b for a in result for b in mask])
    return result


def free_cells(layout: Layout) -> set[Cell]:
    return {cell for cell, _, _ in occurrences(layout)}


@st.composite
def statements(draw: st.DrawFn) -> Statements:
    """Layouts of cells, joins, products and cuts: equalities, and which part each cut is of what."""
    unifier = Unifier()
    known: list[Layout] = [Cell(draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]))) for _ in range(4)]
    said: list[tuple[Layout, Layout]] = []
    cuts: list[tuple[Layout, int, Layout]] = []
    for _ in range(draw(st.integers(2, 12))):
        kind = draw(st.sampled_from(["join", "times", "cut", "equal", "equal", "equal", "fresh", "pin"]))
        one, other = draw(st.sampled_from(known)), draw(st.sampled_from(known))
        size = one.size or 0
        if kind == "join":
            known.append(join((one, other)))
        elif kind == "times" and size * (other.size or 0) <= 96:
            known.append(times((one, other)))
        elif kind == "cut" and size > 1:
            start = draw(st.integers(0, size))
            part = unifier.cut(one, start, draw(st.integers(start, size)))
            cuts.append((one, start, part))
            if part.size:
                known.append(part)
        elif kind == "fresh":
            parts = [
                Cell(d) for d in draw(st.sampled_from([(2, 3), (4, 6), (3, 4), (2, 2, 6), (12, 2), (24,)]))
            ]
            known.append(times(parts) if draw(st.booleans()) else join(parts))
        elif kind == "pin":
            unifier.pin(one, Reason("because"))
        elif kind == "equal":
            same = [layout for layout in known if layout.size == one.size and layout is not one]
            if same:
                other = draw(st.sampled_from(same))
                unifier.equal(one, other)
                said.append((one, other))
    return said, cuts


@settings(max_examples=400, deadline=None)
@given(statements(), st.integers(0, 2**32 - 1))
def test_what_is_equal_stays_equal(made: Statements, seed: int) -> None:
    said, cuts = made
    random = np.random.default_rng(seed)
    sides = [side for pair in said for side in pair] + [side for one, _, part in cuts for side in (one, part)]
    cells = dict.fromkeys(cell for side in sides for cell, _, _ in occurrences(side))
    kept = {cell: random.random(cell.size or 0) < 0.6 for cell in cells}
    for one, other in said:
        expected = indices(one, kept)
        assert (expected == indices(other, kept)).all()
        for side in (one, other):
            mask = keep(side, kept)
            assert ((np.ones(side.size or 0, bool) if mask is None else mask) == expected).all()
    for one, start, part in cuts:
        assert (indices(one, kept)[start : start + (part.size or 0)] == indices(part, kept)).all()


@settings(max_examples=200, deadline=None)
@given(statements())
def test_occurrences_are_where_removing_an_atom_shows(made: Statements) -> None:
    for one, _ in made[0]:
        for cell in free_cells(one):
            for atom in (0, (cell.size or 1) - 1):
                mask = np.ones(cell.size or 0, bool)
                mask[atom] = False
                places = [(start, inner) for found, start, inner in occurrences(one) if found is cell]
                gone = np.concatenate([np.arange(s + i * atom, s + i * (atom + 1)) for s, i in places])
                assert sorted(set(gone.tolist())) == np.flatnonzero(~indices(one, {cell: mask})).tolist()


def test_a_concatenation_is_cut_where_its_parts_meet() -> None:
    unifier, whole, left, right = Unifier(), Cell(10), Cell(4), Cell(6)
    unifier.equal(whole, join((left, right)))
    unifier.equal(unifier.cut(whole, 2, 4), Cell(2, Reason("fixed")))
    assert [(cell.size, start) for cell, start, _ in occurrences(whole)] == [(2, 0), (6, 4)]


def test_two_ways_to_factor_meet_in_common_factors() -> None:
    unifier, whole = Unifier(), Cell(24)
    unifier.equal(whole, times((Cell(4), Cell(6))))
    unifier.equal(whole, times((Cell(2), Cell(12))))
    assert [(cell.size, inner) for cell, start, inner in occurrences(whole) if start < inner] == [
        (2, 12),
        (2, 6),
        (6, 1),
    ]


def test_ways_to_factor_without_a_common_one_pin() -> None:
    unifier, whole = Unifier(), Cell(6)
    unifier.equal(whole, times((Cell(2), Cell(3))))
    unifier.equal(whole, times((Cell(3), Cell(2))))
    assert not list(occurrences(whole))


def test_sizes_that_disagree_pin_both() -> None:
    unifier, one, other = Unifier(), Cell(4), Cell(5)
    unifier.equal(one, other)
    assert one.pin is not None and other.pin is not None


def test_an_open_axis_turns_out_to_be_a_product() -> None:
    unifier, channels = Unifier(), Cell(6)
    batch, merged = (Cell(None, Reason("nobody knows", open=True)) for _ in range(2))
    unifier.equal(times((batch, channels, Cell(5))), times((merged, Cell(5))))
    assert keep(merged, {channels: np.array([1, 1, 0, 1, 0, 1], bool)}).tolist() == [1, 1, 0, 1, 0, 1]  # type: ignore[union-attr]
    assert channels.pin is None


def test_an_axis_that_is_a_multiple_of_itself_is_pinned() -> None:
    unifier, channels = Unifier(), Cell(6)
    batch = Cell(None, Reason("nobody knows", open=True))
    unifier.equal(batch, times((batch, channels)))
    assert channels.pin is not None and channels.pin.text == "it is a multiple of itself"


def test_what_is_open_behind_channels_pins_them() -> None:
    unifier, channels = Unifier(), Cell(6)
    steps, merged = (Cell(None, Reason("nobody knows", open=True)) for _ in range(2))
    unifier.equal(merged, times((channels, steps)))
    assert channels.pin is not None and channels.pin.text == "nobody knows"
