"""Prove a pruned model right: it computes what the original does with the same channels masked.

The twin is the original with a product by zeros and ones in front of every sum over channels that shrink.  It
keeps all shapes, so neither weights nor sizes nor attributes were touched by what is to be checked.  Every
tensor of the pruned model must equal the kept slice of the twin's, up to rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.channels.removal import Removal
from onnxslim.analysis.extract import named_values
from onnxslim.analysis.facts import known_facts
from onnxslim.analysis.liveness import random_outputs
from onnxslim.model import edit
from onnxslim.runtime.client import Worker, open_worker

__all__ = ["TwinCheck", "TwinDifference", "check_twin", "masked_twin"]

TOLERANCE = 1e-4  # of the largest operand: hundreds of float32 roundings, far below what a wrong channel does
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class TwinDifference:
    """A tensor that differs: by how much, as a share of the largest operand; infinite if in shape or type."""

    name: str
    share: float
    reason: str


@dataclass(frozen=True, slots=True)
class TwinCheck:
    """What came of a comparison.

    Attributes:
        tensors: how many were compared, on each feed.
        feeds: how many were run.
        worst: the largest difference, as a share of the largest operand.
        differences: tensors beyond the tolerance, in the order of the graph.
    """

    tensors: int
    feeds: int
    worst: float
    differences: tuple[TwinDifference, ...]

    @property
    def ok(self) -> bool:
        """Whether all agree, and there was something to compare."""
        return not self.differences and self.tensors > 0 and self.feeds > 0


def masked_twin(model: ir.Model, remove: Mapping[str, Sequence[int]]) -> ir.Model:
    """A copy in which removed atoms count as zero wherever they are summed over.

    Raises:
        OptionError: there is no such group or atom, or nothing of a group would stay.
    """
    twin = model.clone()
    edit.know_names(twin)
    facts = known_facts(twin)
    for sum_, mask in list(Removal.of(twin, remove).sums()):
        value = sum_.node.inputs[sum_.index]
        assert value is not None and sum_.node.graph is not None
        dtype = facts.dtype(value) or ir.DataType.FLOAT
        factors = mask.reshape([-1 if axis == sum_.axis else 1 for axis in range(sum_.rank)])
        graph = sum_.node.graph
        constant = edit.add_constant(
            graph, factors.astype(dtype.numpy()), f"{value.name}_mask", before=sum_.node
        )
        product = ir.node("Mul", [value, constant])
        product.outputs[0].name = edit.unique_name(graph, f"{value.name}_masked")
        product.outputs[0].type = ir.TensorType(dtype)
        product.name = product.outputs[0].name
        graph.insert_before(sum_.node, product)
        sum_.node.replace_input_with(sum_.index, product.outputs[0])
    return twin


def check_twin(
    model: ir.Model,
    pruned: ir.Model,
    remove: Mapping[str, Sequence[int]],
    feeds: Iterable[Mapping[str, Any]],
    *,
    worker: Worker | None = None,
    tolerance: float = TOLERANCE,
) -> TwinCheck:
    """Compare every tensor of a pruned model with the kept slice of the twin's.

    Args:
        model: the original.
        feeds: input name -> array; give some with another batch size where the batch is open.
        worker: where the models run; default one of its own.
        tolerance: the largest difference, as a share of the largest operand.

    Not compared: what hangs on random operators, what is inside of subgraphs, and integers that hold sizes.
    """
    removal = Removal.of(model, remove)
    masks = {value.name: axes for value, axes in removal.masks()}
    skipped = {value.name for value in removal.resized()}
    operands = {value.name: node.inputs for node in model.graph for value in node.outputs}
    names = [name for name in named_values(pruned.graph) if name in operands and name not in skipped]
    random = random_outputs(_exposed(model, names))
    names = [name for name in names if name not in random]
    worst: dict[str, TwinDifference] = {}
    count = 0
    with contextlib.nullcontext(worker) if worker is not None else open_worker() as used:
        twin = used.load(_exposed(masked_twin(model, remove), names))
        with twin, used.load(_exposed(pruned, names)) as small:
            for feed in feeds:
                count += 1
                expected = dict(zip(names, twin.run(feed, names), strict=True))
                sizes = {name: _largest(array) for name, array in {**feed, **expected}.items()}
                for name, array in zip(names, small.run(feed, names), strict=True):
                    read = [sizes.get(v.name or "", 0.0) for v in operands[name] if v is not None]
                    scale = max(sizes[name], *read, 0.0)
                    found = _compare(name, expected[name], array, masks.get(name, {}), scale)
                    if name not in worst or found.share > worst[name].share:
                        worst[name] = found
    differences = tuple(found for found in worst.values() if found.share > tolerance)
    return TwinCheck(len(names), count, max((f.share for f in worst.values()), default=0.0), differences)


def _exposed(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy all of whose tensors are outputs."""
    copy = model.clone()
    values = named_values(copy.graph)
    own = {value.name for value in copy.graph.outputs}
    copy.graph.outputs.extend(values[name] for name in names if name not in own)
    return copy


def _largest(array: Any) -> float:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or not array.size:
        return 0.0
    wide = np.abs(array.astype(np.float64))
    return float(wide.max(initial=0.0, where=np.isfinite(wide)))


def _compare(name: str, expected: Any, got: Any, masks: Mapping[int, Array], scale: float) -> TwinDifference:
    if not isinstance(expected, np.ndarray) or not isinstance(got, np.ndarray):
        return TwinDifference(name, 0.0, "not a tensor")
    for axis, mask in masks.items():
        expected = np.compress(np.resize(mask, expected.shape[axis]), expected, axis)  # open axes repeat it
    if expected.shape != got.shape or expected.dtype != got.dtype:
        reason = f"{got.dtype} {list(got.shape)} instead of {expected.dtype} {list(expected.shape)}"
        return TwinDifference(name, float("inf"), reason)
    if expected.dtype.kind not in "fiu":
        share = 0.0 if np.array_equal(expected, got) else float("inf")
        return TwinDifference(name, share, "" if share == 0 else "other values")
    a, b = expected.astype(np.float64), got.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return TwinDifference(name, 0.0, "")
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return TwinDifference(name, float("inf"), "not finite in one of them")
    share = float(np.abs(a - b)[~same].max()) / (scale or 1.0)
    return TwinDifference(name, share, f"differs by {share:.3g} of the largest operand")
