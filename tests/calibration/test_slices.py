"""Passes over the data that keep within a limit of memory, and change no bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim.calibration.executor import Chunk, Job, LocalExecutor, Outcomes
from onnxslim.calibration.plan import Tap
from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.slices import sliced
from onnxslim.errors import CalibrationError, OptionError, ResourceError
from onnxslim.runtime.client import open_worker
from tests.calibration.reference import CONV, images, same_bits, tapped
from tests.models import proto, run


@pytest.fixture(autouse=True, scope="module")
def one_process() -> Iterator[None]:
    """For all that a single worker does here."""
    with open_worker():
        yield


class Watched(LocalExecutor):
    """Remembers what each pass fetches."""

    passes: list[list[str]] = []  # noqa: RUF012 (cleared by the test)

    def run(self, job: Job, chunks: Iterable[Chunk], told: Callable[[int], object]) -> Outcomes:
        self.passes.append([tap["source"] for tap in job.request["fetches"]])
        yield from super().run(job, chunks, told)


def fetched_bytes(names: list[str], feeds: list[dict[str, Any]]) -> int:
    """The most that onnxruntime hands over for ``names``."""
    return max(sum(value.nbytes for value in run(tapped(proto(CONV), names), feed, names)) for feed in feeds)


@pytest.mark.parametrize("heights", [[4] * 20, [2, 9, 3, 5] * 5])
def test_bits_do_not_depend_on_the_slices(heights: list[int]) -> None:
    feeds = [{"x": images(1, height)} for height in heights]
    whole = calibrate(proto(CONV), feeds, second_moments=["r"])
    largest = fetched_bytes(["c"], feeds)  # c, r, s and y have one size
    for limit, passes in ((largest, 4), (2 * largest + 3, 2), (10 * largest, 1)):
        Watched.passes.clear()
        found = calibrate(proto(CONV), feeds, second_moments=["r"], max_memory=limit, executor=Watched())
        assert same_bits(whole, found) and found.samples == 20
        assert len(Watched.passes) == passes
        assert all(fetched_bytes(names, feeds) <= limit for names in Watched.passes)


def test_a_tensor_beyond_the_limit_is_named() -> None:
    with pytest.raises(ResourceError, match="'c' alone takes 240 bytes, more than the 239"):
        calibrate(proto(CONV), {"x": images(2)}, max_memory=239)
    with pytest.raises(OptionError):
        calibrate(proto(CONV), {"x": images(2)}, max_memory=0)


def test_a_model_without_floats_has_nothing_to_slice() -> None:
    found = calibrate(
        proto("net (int64[1] a) => (int64[1] y) { y = Neg (a) }"), [{"a": np.array([3])}], max_memory=1
    )
    assert not found.states and found.samples == 1


def test_data_that_changes_between_passes_is_refused() -> None:
    rng = np.random.default_rng(0)

    def feeds() -> Iterator[dict[str, Any]]:
        for _ in range(3):
            yield {"x": rng.standard_normal((1, 2, 4, 5)).astype(np.float32)}

    with pytest.raises(CalibrationError, match="differs between two passes"):
        calibrate(proto(CONV), feeds, max_memory=240)
    assert calibrate(proto(CONV), feeds).samples == 3


def test_progress_counts_every_pass() -> None:
    seen: list[tuple[int, int | None]] = []
    calibrate(
        proto(CONV), {"x": images(5)}, max_memory=480, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (10, 10)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(50, 200))
def test_slices_keep_the_order_and_the_limit(sizes: list[int], limit: int) -> None:
    taps = [Tap(str(i), str(i)) for i in range(len(sizes))]
    parts = sliced(taps, {tap.source: size for tap, size in zip(taps, sizes, strict=True)}, limit)
    assert [tap for part in parts for tap in part] == taps
    totals = [sum(sizes[int(tap.name)] for tap in part) for part in parts]
    assert all(total <= limit for total in totals)
    following = [sizes[int(part[0].name)] for part in parts[1:]]  # no slice ends early
    assert all(total + size > limit for total, size in zip(totals, following, strict=False))
