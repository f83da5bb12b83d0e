"""Small graphs with an operator in the middle of channels that can be removed, and what proves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnxslim._ir import ir
from onnxslim.analysis.channels import Channels, find_groups
from onnxslim.measure.masked_twin import TwinCheck, check_twin
from onnxslim.passes.prune_channels import PruneChannels
from onnxslim.runtime.client import Worker
from tests.models import proto

__all__ = ["Case", "choose", "feeds", "load", "prune_and_check"]


@dataclass(frozen=True)
class Case:
    """A graph in the text format.

    Attributes:
        weights: name -> shape of random float weights; ``text`` only names them.
        integers, floats: name -> content of stored tensors.
        dtypes: of random weights that are not float32.
        groups: how many groups there have to be.
    """

    text: str
    weights: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    integers: Mapping[str, Any] = field(default_factory=dict)
    groups: int = 1
    opset: int = 18
    contrib: bool = False
    dtypes: Mapping[str, str] = field(default_factory=dict)
    floats: Mapping[str, Any] = field(default_factory=dict)


def load(case: Case) -> ir.Model:
    """The graph with its weights, the same in every run."""
    opsets = {"com.microsoft": 1} if case.contrib else {}
    made = proto(case.text, opset=case.opset, ir_version=10, **opsets)
    random = np.random.default_rng(0)
    for name, shape in case.weights.items():
        dtype = case.dtypes.get(name, "f4")
        array = random.uniform(0.5, 1.5, shape) * random.choice([-1, 1], shape)
        array = random.integers(-100, 100, shape) if dtype[0] == "i" else array
        array = np.abs(array) if name in ("var", "s") else array
        made.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(dtype), name))
    for name, content in case.integers.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.array(content, np.int64), name))
    for name, content in case.floats.items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.array(content, np.float32), name))
    onnx.checker.check_model(made, full_check=not case.contrib)
    return ir.from_proto(made)


def choose(found: Channels, ratio: float = 0.4, seed: int = 0) -> dict[str, list[int]]:
    """Some atoms of every group, one at least, never all."""
    random = np.random.default_rng(seed)
    chosen = {}
    for group in found.groups:
        count = min(group.size - 1, max(1, round(ratio * group.size)))
        chosen[group.key] = sorted(random.choice(group.size, count, replace=False).tolist())
    return chosen


def feeds(model: ir.Model, batches: Sequence[int] = (1, 2)) -> list[dict[str, Any]]:
    """Random inputs; named dimensions take the sizes in ``batches``, one feed for each."""
    random = np.random.default_rng(1)
    made = []
    for batch in batches:
        feed = {}
        for value in model.graph.inputs:
            assert value.shape is not None and value.dtype is not None and value.name is not None
            dims = [size if isinstance(size, int) else batch for size in value.shape]
            array = random.normal(size=dims)
            integer = value.dtype.is_integer()
            feed[value.name] = (random.integers(0, 3, dims) if integer else array).astype(value.dtype.numpy())
        made.append(feed)
    return made


def prune_and_check(model: ir.Model, remove: Mapping[str, Sequence[int]], worker: Worker) -> TwinCheck:
    """Remove channels from a copy, check that it is valid, and compare it with the masked twin."""
    pruned = model.clone()
    assert PruneChannels(remove)(pruned).modified
    made = ir.to_proto(pruned)
    onnx.checker.check_model(made)
    after = find_groups(pruned)
    before = {group.key: group.size for group in find_groups(model).groups}
    left = {key: size - len(remove.get(key, ())) for key, size in before.items()}
    assert sum(group.size for group in after.groups) <= sum(left.values())
    return check_twin(model, pruned, remove, feeds(model), worker=worker)
