"""Batches: every sample comes, again the same for a seed, and variation keeps what it must."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxslim.distillation.engine import stackable
from onnxslim.distillation.samples import Pool, of_few_sizes, shifted, varied

Array = np.ndarray[Any, Any]


def feeds(count: int, *shape: int) -> list[dict[str, Array]]:
    return [{"x": np.full((1, *shape), number, np.float32)} for number in range(count)]


def test_every_sample_comes_once_an_epoch_in_an_order_of_its_own() -> None:
    pool = Pool(feeds(12, 3), size=4, vary=False)
    epochs = [[pool.batch(3 * epoch + step).indices for step in range(3)] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(index for batch in epoch for index in batch) == list(range(12))
    assert epochs[0] != epochs[1]
    batch = pool.batch(1)
    assert batch.feed["x"][:, 0].tolist() == list(batch.indices) and not batch.varied


def test_a_batch_is_a_function_of_the_seed_and_the_step() -> None:
    images = [{"x": np.random.default_rng(n).random((1, 1, 20, 20), np.float32)} for n in range(9)]
    for step in (0, 7, 31):
        one, other, third = (Pool(images, size=3, seed=seed).batch(step) for seed in (5, 5, 6))
        assert one.indices == other.indices and np.array_equal(one.feed["x"], other.feed["x"])
        assert one.indices != third.indices or not np.array_equal(one.feed["x"], third.feed["x"])


def test_samples_of_other_shapes_come_in_batches_of_their_own() -> None:
    pool = Pool([*feeds(5, 3), *feeds(4, 8)], size=2, vary=False)
    shapes = [pool.batch(step).feed["x"].shape for step in range(pool.epoch)]
    assert sorted(shapes) == [(2, 3)] * 3 + [(2, 8)] * 2
    alone = Pool(feeds(3, 3), size=2, together=False, vary=False)
    assert [len(alone.batch(step).indices) for step in range(alone.epoch)] == [1, 1, 1]


@pytest.mark.parametrize("moving", [(3,), (2, 3)])
def test_images_of_many_sizes_are_filled_up_to_few_by_their_edges(moving: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    given: list[dict[str, Array]] = []
    for _ in range(120):
        shape = [1, 3, 32, 48]
        for axis in moving:
            shape[axis] = int(rng.integers(20, 90))
        given.append({"x": rng.normal(size=shape).astype("f")})
    found = of_few_sizes(given)
    sizes = [{feed["x"].shape[axis] for feed in given} for axis in range(4)]
    assert len({feed["x"].shape for feed in found}) <= 16
    for one, other in zip(given, found, strict=True):
        height, width = one["x"].shape[2:]
        assert np.array_equal(other["x"][:, :, :height, :width], one["x"])
        assert all(size in sizes[axis] for axis, size in enumerate(other["x"].shape)), "as others have"
        edge = np.broadcast_to(one["x"][:, :, -1:], other["x"][:, :, height:, :width].shape)
        assert np.array_equal(other["x"][:, :, height:, :width], edge)
    pool = Pool(given, size=8)
    assert pool.shapes <= 32 and len({pool.batch(step).feed["x"].shape for step in range(60)}) <= 32
    assert Pool(given, size=8, vary=False).feeds is given
    assert Pool(given, size=8, mix=False).feeds is given, "labels would not fit"


def test_few_sizes_and_what_is_no_image_stay() -> None:
    images = [feed for width in range(20, 36) for feed in feeds(1, 3, 32, width)]
    assert of_few_sizes(images) is images
    tokens = [{"ids": np.zeros((1, length), np.int64)} for length in range(1, 60)]
    assert of_few_sizes(tokens) is tokens and of_few_sizes([]) == []


def test_an_image_is_moved_and_its_edge_fills_the_rest() -> None:
    image = np.zeros((1, 1, 20, 30), np.float32)
    image[..., 10, 15] = 1
    places = set()
    for seed in range(60):
        moved = shifted(image, np.random.default_rng(seed))
        [[_, _, row, column]] = np.argwhere(moved)
        places.add((int(row), int(column)))
        assert abs(row - 10) <= 2 and abs(column - 15) <= 3
    assert len(places) > 20
    flat = np.broadcast_to(np.arange(20, dtype="f")[:, None], (1, 1, 20, 30))
    rows = shifted(np.ascontiguousarray(flat), np.random.default_rng(0))
    assert rows.min() >= 0 and rows.max() <= 19 and (np.diff(rows[0, 0, :, 0]) >= 0).all()


def test_tokens_are_left_alone_and_vectors_are_not_moved() -> None:
    rng = np.random.default_rng(0)
    tokens = {"ids": np.arange(40).reshape(4, 10)}
    assert varied(tokens, rng) is tokens
    mixed = [
        varied({"x": np.arange(8, dtype="f").reshape(4, 2)}, np.random.default_rng(n)) for n in range(20)
    ]
    assert any(not np.array_equal(each["x"], mixed[0]["x"]) for each in mixed)
    for each in mixed:
        assert each["x"].min() >= 0 and each["x"].max() <= 7 and each["x"].dtype == np.float32
    still = {"x": np.arange(8, dtype="f").reshape(4, 2)}
    assert all(varied(still, np.random.default_rng(n), mix=False) is still for n in range(5))


@pytest.mark.parametrize(
    "function, expected",
    [
        (lambda x: x * 2, True),
        (lambda x: x - x.mean(0), False),
        (lambda x: x.sum(), False),
        (lambda x: x[:1], False),
    ],
)
def test_whether_samples_may_be_stacked_is_tried(function: Any, expected: bool) -> None:
    samples = [{"x": np.random.default_rng(n).random((1, 4), np.float32)} for n in range(3)]
    assert stackable(lambda feed: {"y": np.asarray(function(feed["x"]))}, samples) is expected
    assert not stackable(lambda feed: {"y": feed["x"]}, samples[:1])
