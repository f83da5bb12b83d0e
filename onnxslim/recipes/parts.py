"""The parts of the data: to fit on, to judge candidates on, to score the winner on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxslim._ir import ir
from onnxslim.analysis.indices import index_limits
from onnxslim.calibration.data import DataLike, Feeds, open_feeds
from onnxslim.errors import CalibrationError
from onnxslim.recipes.proof import running_feeds
from onnxslim.runtime.client import Worker

__all__ = ["Parts", "open_data", "split_data"]

_RANDOM_SAMPLES = 32
_RANDOM = "the data were random: ranges and accuracy say little about real inputs"


@dataclass(frozen=True)
class Parts:
    """Disjoint parts; ``test`` is None where the metric brings data of its own."""

    fit: Feeds
    held_out: Feeds
    test: Feeds | None
    notes: tuple[str, ...] = ()


def open_data(
    worker: Worker,
    model: ir.Model,
    data: DataLike,
    *,
    seed: int = 0,
    samples: int | None = None,
    batch: int | None = None,
    images: Any = None,
) -> Feeds:
    """The feeds behind what the user gave; random ones are sized so that the model runs on them."""
    if not (isinstance(data, str) and data == "random"):
        return open_feeds(data, model, seed=seed, samples=samples, batch=batch, images=images)
    with worker.load(model, optimize="none") as session:
        limits = index_limits(model)
        return running_feeds(session, session.inputs, samples or _RANDOM_SAMPLES, seed, limits)


def split_data(
    feeds: Feeds,
    test: DataLike | None,
    model: ir.Model,
    *,
    seed: int = 0,
    own_test: bool = False,
    fitted: float = 0.7,
) -> Parts:
    """Split 70/30, and what is not tested on once more.

    Args:
        test: tested on instead of a part of ``feeds``.
        own_test: the metric brings its own data, so nothing need be set aside.
        fitted: share of what is not tested on that is fitted on.

    Raises:
        CalibrationError: there are too few feeds.
    """
    tested: Feeds | None = None
    if test is not None:
        tested = open_feeds(test, model, seed=seed)
    elif not own_test:
        if len(feeds) < 4:
            raise CalibrationError(
                f"{len(feeds)} feeds are too few to calibrate, select and test on",
                hint="give at least 4 feeds, better 32 or more",
            )
        feeds, tested = feeds.split(0.7, seed)
    fit, held_out = feeds.split(fitted, seed + 1)
    notes = (*feeds.notes, _RANDOM) if feeds.is_random else feeds.notes
    return Parts(fit, held_out, tested, notes)
