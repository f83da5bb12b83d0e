"""Which nodes take the time: per-node times from onnxruntime's own events, in a run of their own.

Nodes are known by the output that they compute in the user's model, since onnxruntime renames them; an
integer kernel by the float value that its output quantizes.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxslim._ir import ir
from onnxslim.errors import ModelError
from onnxslim.measure.setting import Inputs, Setting, naming
from onnxslim.model.edit import scopes
from onnxslim.model.protos import graphs_of
from onnxslim.ops.registry import is_conversion, is_integer_kernel
from onnxslim.runtime.client import DEFAULT_BUDGET, open_worker
from onnxslim.runtime.kernels import SMALL_DUMP, Executed, Kernel, message_of, read_dump
from onnxslim.runtime.sources import DATA_FOLDER, RunnableModel, payload_of

__all__ = ["NodeTime", "Profile", "join", "profile"]

_SUFFIX = "_kernel_time"
_KEPT = 0.75  # of a node's times, the slowest quarter was interrupted or cold


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One kernel: microseconds per run of the model, and their share of all kernels."""

    output: str
    op: str
    provider: str
    us: float
    share: float
    integer: bool


@dataclass(frozen=True, slots=True)
class Profile:
    """Where a model spends its time.

    Attributes:
        runs: how many were averaged.
        total_us: of all kernels, per run.
        nodes: hottest first; what holds a branch or loop body is left out, since the body's nodes are in.
        kernels: operator -> how many kernels of it there are.
        integer: how many kernels compute with integers.
        leftover: outputs of the QuantizeLinear and DequantizeLinear that still run.
        providers: execution provider -> how many kernels it runs.
    """

    runs: int
    total_us: float
    nodes: tuple[NodeTime, ...]
    kernels: Mapping[str, int]
    integer: int
    leftover: tuple[str, ...]
    providers: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def profile(
    model: RunnableModel,
    inputs: Inputs,
    setting: Setting | None = None,
    *,
    seconds: float = 1.0,
    name: str = "A",
) -> Profile:
    """Run a model some times and read per-node times.

    Args:
        seconds: to spend on runs; at least five are made.
        name: of the model, in errors.

    Raises:
        ModelError: onnxruntime does not load or run it.

    Example:
        >>> from onnx.parser import parse_model
        >>> text = '<ir_version: 8, opset_import: ["" : 13]> g (float[9] x) => (float[9] y) { y = Neg(x) }'
        >>> found = profile(parse_model(text), Inputs(({"x": np.zeros(9, np.float32)},)), seconds=0.01)
        >>> [(node.output, node.op) for node in found.nodes]
        [('y', 'Neg')]
    """
    chosen = setting or Setting()
    with payload_of(model) as payload:
        budget = DEFAULT_BUDGET + 2 * payload.weights  # external data do not show in a renamed message
    with (
        tempfile.TemporaryDirectory(prefix="onnxslim-") as folder,
        open_worker(budget, fresh=True) as worker,
    ):
        dump = Path(folder) / "optimized.onnx"
        model, extra = _with_names(model)
        config = {**chosen.options["config"], **SMALL_DUMP, **extra}
        with naming(name):
            session = chosen.load(
                worker, name, model, config=config, dump=dump, profile=Path(folder) / "events"
            )
            file = worker.call(
                "onnxslim.measure.remote.profile:record",
                session,
                chosen.bound(session),
                list(inputs.feeds),
                seconds,
            )
        events = json.loads(Path(file).read_text(encoding="utf-8"))
        try:
            executed: Executed | None = read_dump(dump, model)
        except ModelError:
            executed = None  # a provider that compiles subgraphs; then nodes keep the names of the events
    return summarize(events, executed)


def summarize(events: Sequence[Mapping[str, Any]], executed: Executed | None) -> Profile:
    """The profile that onnxruntime's events show; the first run, which is cold, does not count."""
    runs = [event for event in events if event.get("name") == "model_run"]
    warm = runs[0]["ts"] + runs[0]["dur"] if len(runs) > 1 else 0
    counted = max(len(runs) - 1, 1)
    kernels = _by_name(executed.kernels if executed else ())
    labels = _labels(executed) if executed else {}
    times: dict[tuple[str, str], list[float]] = {}
    facts: dict[tuple[str, str], tuple[str, str]] = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(_SUFFIX) or event["ts"] < warm:
            continue
        name, found = event["name"].removesuffix(_SUFFIX), event["args"]
        key = (name, str(found.get("node_index", "")))
        times.setdefault(key, []).append(float(event["dur"]))
        facts[key] = (str(found.get("op_name", "")), str(found.get("provider", "")))
    nodes, providers = [], Counter[str]()
    for (name, index), spent in times.items():
        op, provider = facts[name, index]
        providers[provider] += 1
        kernel = kernels.get(name)
        if kernel is not None and kernel.has_body:
            continue
        output = labels.get(kernel, name) if kernel else name
        domain = kernel.domain if kernel else ""
        us = _typical(spent) * len(spent) / counted  # a node in a loop runs more than once in a run
        nodes.append((output, op, provider, us, is_integer_kernel(op, domain)))
    total = sum(node[3] for node in nodes)
    ranked = sorted(nodes, key=lambda node: -node[3])
    every = executed.kernels if executed else ()
    return Profile(
        runs=counted,
        total_us=total,
        nodes=tuple(
            NodeTime(output, op, provider, us, us / total if total else 0.0, integer)
            for output, op, provider, us, integer in ranked
        ),
        kernels=executed.histogram if executed else dict(Counter(node[1] for node in nodes).most_common()),
        integer=sum(is_integer_kernel(kernel.op_type, kernel.domain) for kernel in every)
        if executed
        else sum(node[4] for node in nodes),
        leftover=tuple(kernel.outputs[0] for kernel in every if is_conversion(kernel.op_type)),
        providers=dict(providers.most_common()),
    )


def _with_names(model: RunnableModel) -> tuple[RunnableModel, dict[str, str]]:
    """The model with a name for every node, by which events are told apart, and where its data are."""
    if isinstance(model, ir.Model):
        copy = model.clone()
        _name_all([node for scope in scopes(copy) for node in scope])
        return copy, {}
    proto = onnx.ModelProto()
    proto.CopyFrom(message_of(model))
    if not _name_all([node for graph in graphs_of(proto) for node in graph.node]):
        return model, {}
    if isinstance(model, bytes | onnx.ModelProto):
        return proto, {}
    return proto, {DATA_FOLDER: str(Path(model).resolve().parent)}


def _name_all(nodes: Sequence[onnx.NodeProto | ir.Node]) -> bool:
    """Give nodes that have no name, or one that others have, one of their own; whether there were any."""
    taken = Counter(node.name or "" for node in nodes)
    unnamed = [node for node in nodes if not node.name or taken[node.name] > 1]
    numbers = itertools.count()
    for node in unnamed:
        node.name = next(n for i in numbers if (n := f"{node.op_type}.{i}") not in taken)
    return bool(unnamed)


def _by_name(kernels: Iterable[Kernel]) -> dict[str, Kernel]:
    """Kernels by a name that only one of them has."""
    found: dict[str, Kernel] = {}
    counts = Counter(kernel.name for kernel in kernels if kernel.name)
    for kernel in kernels:
        if counts.get(kernel.name) == 1:
            found[kernel.name] = kernel
    return found


def _labels(executed: Executed) -> dict[Kernel, str]:
    """Kernel -> the value of the user's model that it computes.

    What only converts or moves a value that another kernel computes (to integers and back, into another
    layout) has no label.
    """
    labels: dict[Kernel, str] = {}
    for name, kernel in executed.by_output.items():
        labels.setdefault(kernel, executed.quantized.get(name, name))
    computed = {label for kernel, label in labels.items() if not is_conversion(kernel.op_type)}
    labels = {
        kernel: label
        for kernel, label in labels.items()
        if not is_conversion(kernel.op_type) or label not in computed
    }
    taken = set(labels.values())
    for kernel in executed.kernels:
        if kernel.outputs and kernel.outputs[0] not in taken:
            labels.setdefault(kernel, kernel.outputs[0])
    return labels


def _typical(times: Sequence[float]) -> float:
    """Mean of the faster part: events count whole microseconds, too coarse for a median."""
    kept = np.sort(times)[: max(1, round(_KEPT * len(times)))]
    return float(kept.mean())


def join(before: Profile, after: Profile) -> list[dict[str, Any]]:
    """The nodes of two profiles that compute the same value, side by side, the dearest first.

    Returns:
        ``output``, and ``before`` and ``after`` with ``op`` and ``us``, or None where only one has it.
    """
    sides = [{node.output: {"op": node.op, "us": node.us} for node in each.nodes} for each in (before, after)]
    rows = [
        {"output": output, "before": sides[0].get(output), "after": sides[1].get(output)}
        for output in dict.fromkeys((*sides[0], *sides[1]))
    ]
    return sorted(
        rows, key=lambda row: -max((side or {"us": 0.0})["us"] for side in (row["before"], row["after"]))
    )
