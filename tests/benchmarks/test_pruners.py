"""Other pruners' choices become our masks, or an error; the tables count what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import composed, criteria, pruners
from benchmarks.pruning import Row
from onnxslim.analysis.channels import find_groups
from onnxslim.model import edit, io
from onnxslim.passes.pack_zeros import PackZeros
from onnxslim.passes.zero_weights import ZeroWeights
from tests.recipes.pruning.nets import small_net


def test_output_channels_of_weights_become_atoms() -> None:
    channels = find_groups(small_net())
    mask = pruners.mask_of(channels, {"w1": [3, 5], "w2": [5, 3], "w3": [0]})
    assert {key: atoms for key, atoms in mask.remove.items() if atoms} == {
        "w1:0:0:1": (3, 5),
        "w3:0:0:1": (0,),
    }
    with pytest.raises(RuntimeError, match="cuts through the group w1"):
        pruners.mask_of(channels, {"w1": [3], "w2": [4]})


def test_the_nearest_share_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pruner that removes the first channels of one convolution, as a script of its own."""
    script = tmp_path / "peer.py"
    script.write_text(
        "import json, sys\n"
        "_, model, ratios, target, *stay = sys.argv[1:]\n"
        "assert 'w4' in stay\n"
        "found = [{'w1': list(range(int(16 * float(r))))} for r in ratios.split(',')]\n"
        "json.dump(found, open(target, 'w'))\n"
    )
    monkeypatch.setattr(pruners, "_SCRIPT", script)
    io.save(small_net(), tmp_path / "m.onnx")
    peer = pruners.Peer("any", Path(sys.executable), tmp_path / "m.onnx")
    mask = peer.at(0.5)
    assert len(mask.remove["w1:0:0:1"]) == 8 and peer.left(mask) == pytest.approx(0.5, abs=0.02)
    monkeypatch.setattr(pruners, "RATIOS", [0.1])
    with pytest.raises(RuntimeError, match="whatever it is asked for"):
        peer.at(0.2)
    script.write_text("raise SystemExit('no torch')")
    with pytest.raises(RuntimeError, match="no torch"):
        peer.at(0.5)


def test_values_are_counted_however_they_are_stored() -> None:
    model = small_net()
    full = criteria.values(model)
    ZeroWeights(pattern="0.75")(model)
    zeroed = criteria.values(model)
    PackZeros()(model)
    assert criteria.values(model) == zeroed < 0.4 * full
    assert full == sum(np.size(edit.constant_value(v)) for v in small_net().graph.initializers.values())


def test_every_criterion_is_in_the_table() -> None:
    ways = list(criteria.ways("0.5", ["0.5", "2:4"]))
    channels = {criterion for granularity, criterion, _, _ in ways if granularity == "channel"}
    weights = {(criterion, asked) for granularity, criterion, asked, _ in ways if granularity == "weight"}
    assert {"random", "l1", "obs", "reconstruction"} <= channels
    assert {("random", "0.5"), ("wanda", "2:4"), ("sparsity", "0.5")} <= weights
    row = criteria.Row("weight", "l1", "0.5", 0.5, 1, 0.53, 1, 0.9, None)
    assert len(row.cells()) == len(criteria.HEADER)
    pruned = Row("m", "ours", 0.5, 0.5, 0.4, 0.6, (0.5, 0.7), 1.0, 0.9, 20.0, 3.0)
    assert len(pruned.cells()) == len(pruners.HEADER) and json.dumps(pruned.cells())
    made = composed.Row("m", "both", 1.0, 0.9, 20.0, 0.2, 0.3, (0.2, 0.4))
    assert len(made.cells()) == len(composed.HEADER)
