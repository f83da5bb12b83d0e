"""Every backend case that onnxruntime runs, simplified: no wrong value, no crash, no refusal."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import pytest

from onnxslim.runtime.client import open_worker
from tests.backend.cases import Case, all_cases, with_constant_inputs
from tests.backend.sweep import Verdict, judge

REFUSED_AT_MOST = 8


def sweep(cases: Iterable[Case]) -> list[Verdict]:
    with open_worker() as worker:
        return [judge(case, worker) for case in cases]


def check(verdicts: list[Verdict], at_least: int) -> None:
    assert [v for v in verdicts if v.kind == "wrong"] == []
    refused = [v for v in verdicts if v.kind == "refused"]
    assert len(refused) <= REFUSED_AT_MOST and all(v.detail for v in refused), refused
    ran = [v for v in verdicts if v.kind != "not run"]
    assert len(ran) >= at_least, "the cases were there, and onnxruntime ran them"


def with_constants(cases: Iterable[Case]) -> list[Case]:
    return [changed for case in cases if (changed := with_constant_inputs(case)) is not None]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(all_cases())


def test_a_sample(cases: list[Case]) -> None:
    check(sweep(islice(cases, 0, None, 25)), 50)


def test_a_sample_with_constant_inputs(cases: list[Case]) -> None:
    verdicts = sweep(with_constants(islice(cases, 0, None, 25)))
    check(verdicts, 30)
    before, after = (sum(v.nodes[i] for v in verdicts if v.kind == "equal") for i in (0, 1))
    assert after < before, "constants were folded"


@pytest.mark.slow
def test_all(cases: list[Case]) -> None:
    check(sweep(cases), 1600)


@pytest.mark.slow
def test_all_with_constant_inputs(cases: list[Case]) -> None:
    check(sweep(with_constants(cases)), 1100)
