"""How the tensors of a plan are spread over several passes over the data, so that each fits into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxslim._ir import ir
from onnxslim.calibration.data import Feeds
from onnxslim.calibration.plan import Tap
from onnxslim.errors import ResourceError
from onnxslim.model.edit import unique_name
from onnxslim.model.io import load
from onnxslim.runtime.client import Worker

__all__ = ["sliced", "tensor_bytes", "with_outputs"]


def with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy of ``model`` with values of its main graph, instead of its own if there are any, as outputs."""
    model = load(model)
    if not names:
        return model
    produced = {value.name: value for node in model.graph for value in node.outputs}
    produced |= {value.name: value for value in model.graph.outputs}
    model.graph.outputs[:] = [produced[name] for name in names]
    for value in model.graph.outputs:
        if value.producer() is not None:
            value.shape = None  # an annotation that does not hold must not become a promise
    return model


def tensor_bytes(
    worker: Worker, model: ir.Model, taps: Sequence[Tap], feeds: Feeds, itemsizes: Mapping[str, int]
) -> dict[str, int]:
    """The most that each tensor takes in one run, by source.

    The model runs once for each combination of input shapes in the data, and hands over sizes only.

    Args:
        itemsizes: bytes per element, by source.
    """
    found = dict.fromkeys((tap.source for tap in taps), 0)
    if not found:
        return {}
    seen: set[tuple[Any, ...]] = set()
    with worker.load(_with_sizes(model, list(found)), optimize="none", threads=1) as session:
        for feed in feeds:
            shapes = tuple(np.shape(value) for value in feed.values())
            if shapes in seen:
                continue
            seen.add(shapes)
            for source, count in zip(found, session.run(feed), strict=True):
                found[source] = max(found[source], int(np.asarray(count)) * itemsizes[source])
    return found


def _with_sizes(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy whose outputs are the numbers of elements of ``names``."""
    model = with_outputs(model, names)
    sizes = []
    for value in model.graph.outputs:
        node = ir.node("Size", [value])
        node.outputs[0].name = unique_name(model, f"{value.name}_size")
        node.outputs[0].type = ir.TensorType(ir.DataType.INT64)
        model.graph.append(node)
        sizes.append(node.outputs[0])
    model.graph.outputs[:] = sizes
    return model


def sliced(taps: Sequence[Tap], sizes: Mapping[str, int], limit: int) -> list[tuple[Tap, ...]]:
    """The taps in their order, cut where the next one would exceed ``limit`` bytes.

    Raises:
        ResourceError: one tensor alone is larger.

    Example:
        >>> taps = [Tap(name, name) for name in "abc"]
        >>> [[tap.name for tap in part] for part in sliced(taps, {"a": 3, "b": 4, "c": 5}, 8)]
        [['a', 'b'], ['c']]
    """
    parts: list[list[Tap]] = [[]]
    held = 0
    for tap in taps:
        size = sizes[tap.source]
        if size > limit:
            raise ResourceError(
                f"the tensor '{tap.name}' alone takes {size} bytes, more than the {limit} that are allowed",
                hint=f"allow at least {-(-size // 10**6)}MB, or feed less at a time",
            )
        if parts[-1] and held + size > limit:
            parts.append([])
            held = 0
        parts[-1].append(tap)
        held += size
    return [tuple(part) for part in parts]
