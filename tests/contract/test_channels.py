"""Every operator that couples axes is pruned in a small graph and compared with the masked twin."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnxslim._ir import ir
from onnxslim.analysis.channels import find_groups
from onnxslim.measure.masked_twin import check_twin
from onnxslim.model import edit
from onnxslim.ops.registry import all_specs
from onnxslim.passes.prune_channels import PruneChannels
from onnxslim.runtime.client import Worker, open_worker
from tests.contract.channels import choose, feeds, load, prune_and_check
from tests.contract.channels_cases import CASES


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with open_worker() as opened:
        yield opened


@pytest.mark.parametrize("name", CASES)
def test_pruned_equals_its_masked_twin(name: str, worker: Worker) -> None:
    case = CASES[name]
    model = load(case)
    found = find_groups(model)
    assert len(found.groups) == case.groups, [(g.key, g.size) for g in found.groups] + list(found.pins)
    for seed in (0, 1):
        check = prune_and_check(model, choose(found, seed=seed), worker)
        assert check.ok, check.differences[:3]


# What only pins, or is proven elsewhere: no channel passes through it, or no kernel of this provider runs it.
UNPROVEN = {
    ("", "CumProd"), ("", "LRN"), ("", "SequenceMap"), ("", "Upsample"),
    ("com.microsoft", "DequantizeLinear"), ("com.microsoft", "GroupQueryAttention"),
    ("com.microsoft", "QuantizeLinear"), ("com.microsoft", "RotaryEmbedding"),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"),
}  # fmt: skip


def test_every_coupling_has_a_case() -> None:
    declared = {(spec.domain, spec.op_type) for spec in all_specs().values() if spec.couple is not None}
    seen = {(node.domain, node.op_type) for case in CASES.values() for node in load(case).graph.all_nodes()}
    assert declared - seen == UNPROVEN


@pytest.mark.parametrize("name", ["Conv groups", "LSTM", "heads", "Flatten", "residual"])
def test_a_wrong_channel_is_noticed(name: str, worker: Worker) -> None:
    model = load(CASES[name])
    found = find_groups(model)
    remove = choose(found)
    pruned = model.clone()
    PruneChannels(remove)(pruned)
    changed = 0
    for value in pruned.graph.initializers.values():
        content, original = edit.constant_value(value), model.graph.initializers.get(value.name or "")
        before = edit.constant_value(original)
        if content is None or before is None or content.shape == before.shape or content.dtype != np.float32:
            continue
        for axis, size in enumerate(content.shape):
            if size < before.shape[axis] and size > 1:
                mutant = pruned.clone()
                edit.replace_initializer(
                    mutant.graph.initializers[value.name or ""], np.roll(content, 1, axis)
                )
                assert not check_twin(model, mutant, remove, feeds(model), worker=worker).ok
                changed += 1
    assert changed


def test_the_model_is_left_as_it_is() -> None:
    model = load(CASES["heads"])
    before = ir.to_proto(model).SerializeToString()
    find_groups(model)
    assert ir.to_proto(model).SerializeToString() == before
