"""Random graphs, pruned at random, equal their masked twins."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnxslim.analysis.channels import find_groups
from onnxslim.runtime.client import Worker, open_worker
from tests.contract.channels import choose, load, prune_and_check
from tests.contract.generated import generated


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with open_worker() as opened:
        yield opened


def check(seed: int, worker: Worker) -> int:
    """How many groups there were."""
    model = load(generated(seed))
    found = find_groups(model)
    if found.groups:
        some = choose(found, ratio=float(np.random.default_rng(seed).uniform(0.1, 0.8)), seed=seed)
        result = prune_and_check(model, some, worker)
        assert result.ok, (seed, result.differences[:3])
    return len(found.groups)


def test_generated_graphs(worker: Worker) -> None:
    assert sum(check(seed, worker) > 0 for seed in range(20)) >= 18


@pytest.mark.slow
def test_three_hundred_generated_graphs(worker: Worker) -> None:
    assert sum(check(seed, worker) > 0 for seed in range(1000, 1300)) >= 270
