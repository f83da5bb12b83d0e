"""The record of one run: what went in and out, what each pass did, what was declined, how it was checked.

A report is plain data.  The recipes fill it, and the other files of this folder show it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxslim.model.io import FileInfo
    from onnxslim.passes.base import Decline

__all__ = ["PassRecord", "Report", "plain"]

Fields = Mapping[str, Any]
_HEADLINE = ("verdict", "ratio", "interval")


@dataclass(frozen=True, slots=True)
class PassRecord:
    """What one pass did, summed over its applications; ``rolled_back`` is why it was taken back."""

    name: str
    promise: str
    modified: bool = False
    seconds: float = 0.0
    nodes_removed: int = 0
    weight_bytes_removed: int = 0
    rolled_back: str | None = None


@dataclass(frozen=True)
class Report:
    """What one run did to one model.

    Args:
        input, output: the files; None when the model came from, or stays in, memory.
        before, after: ``nodes``, ``params``, ``bytes``, ``macs`` and ``ops`` (operator -> count).
        passes: what each pass did, in order.
        declined: what was left alone, each with its reason.
        verification: ``ok``, ``promise``, ``samples``, ``outputs`` (per output: ``name``, ``max_abs_diff``,
            ``ref_max``, ``sqnr_db``, ``bit_equal``, ``ok``) and ``unverifiable`` (output name -> reason).
        metric: ``name``, ``before``, ``after``, ``n`` and, where known, the ``interval`` of ``after``.
        latency: as :func:`onnxslim.recipes.evidence.latency_fields` makes it: ``name`` of the setting,
            ``verdict``, ``ratio`` (after / before), ``interval`` (low, high), ``control`` and
            ``control_interval`` (the same between two sessions of the original), ``clock``, ``threads``,
            ``providers``; ``reliable`` (where it is False, no claim can be made); ``before`` and ``after``
            (seconds per call: ``p50``, ``p90``, ``p99``, ``best``; ``after`` is None for a single model),
            ``before_ms``, ``after_ms`` (the medians); ``diagnosis`` (sentences), ``epochs``, ``rounds``,
            ``seconds``, ``seed`` and ``raw`` (per epoch and round: ``b_over_a`` and ``control``, log ratios;
            ``wall_ns`` and ``cpu_ns`` of A, A' and B).
        scenarios: the same for each setting of a sweep, the first included; empty without one.
        footprint: ``before`` and ``after`` (or None): ``session_s`` and ``first_s`` (seconds to create a
            session, and of the first call), ``rss_bytes`` (what both add to a process), ``peak_rss_bytes``
            (of the whole process) and ``arena_bytes`` (None where unknown).
        throughput: per number of ``streams``: ``before``, ``after`` (calls per second), ``ratio``
            (after / before, above 1 is better) and its ``interval``.
        transfers: on a device, ``before`` and ``after``: ``to_device_s``, ``compute_s``, ``to_host_s``.
        profile: ``before`` and ``after`` (or None), each with ``runs``, ``total_us`` (all nodes, per run),
            ``nodes`` (hottest first: ``output``, ``op``, ``provider``, ``us``, ``share``, ``integer``; where
            they were explained also ``computes`` (``integers``, ``floats``, ``nothing``) and ``reason``),
            ``kernels`` (operator -> count), ``integer`` (how many are integer kernels), ``leftover``
            (outputs of QuantizeLinear and DequantizeLinear that still run) and ``providers`` (provider ->
            nodes); and ``joined``: ``output``, ``before`` and ``after`` (``op`` and ``us``, or None).
        gates: each with ``gate`` (as it was asked for), ``verdict`` (``met``, ``broken``, ``undecided``)
            and ``found`` (a sentence).
        tried: the candidates of a search, each with ``name``, ``kept`` and ``reason``.
        distillation: what a training did: ``steps``, ``planned``, ``best`` (the step that was kept),
            ``seconds``, ``peak_bytes`` (of the process that computed), ``rate``, ``rates`` (tried rate ->
            loss), ``rollbacks``, ``samples``, ``teacher`` (its file), ``terms`` (each ``name``, ``weight``,
            ``before`` and ``after``), ``looks`` at held-out samples (``step``, ``loss``, ``agreement``),
            ``losses`` (of the steps), ``blocks`` (where one was trained after the other: ``value`` behind
            it, ``weights``, ``steps``, ``best``, ``rate``, loss ``before`` and ``after``), ``trained``
            (``name``, ``kind``, ``elements``), ``frozen`` (name -> reason) and ``outputs`` before it, as in
            ``verification``.
        environment: as :func:`onnxslim.runtime.environment.environment` makes it.
        seeds: name -> seed of everything drawn at random.
        notes: remarks that a reader must not miss, one sentence each.

    Example:
        >>> Report(before={"bytes": 100}, after={"bytes": 40}).ratio("bytes")
        0.4
    """

    input: FileInfo | None = None
    output: FileInfo | None = None
    before: Fields = field(default_factory=dict)
    after: Fields = field(default_factory=dict)
    passes: tuple[PassRecord, ...] = ()
    declined: tuple[Decline, ...] = ()
    verification: Fields | None = None
    metric: Fields | None = None
    latency: Fields | None = None
    scenarios: tuple[Fields, ...] = ()
    footprint: Fields | None = None
    throughput: tuple[Fields, ...] = ()
    transfers: Fields | None = None
    profile: Fields | None = None
    gates: tuple[Fields, ...] = ()
    tried: tuple[Fields, ...] = ()
    distillation: Fields | None = None
    environment: Fields = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def ratio(self, quantity: str) -> float | None:
        """``after / before`` of a quantity of the models; None where it is unknown."""
        before, after = self.before.get(quantity), self.after.get(quantity)
        return after / before if before and after is not None else None

    def declined_by_reason(self) -> dict[tuple[str, str], list[str]]:
        """``(pass, reason)`` -> the nodes concerned, the most frequent reason first."""
        groups: dict[tuple[str, str], list[str]] = {}
        for entry in self.declined:
            groups.setdefault((entry.pass_name, entry.reason), []).append(entry.node)
        return dict(sorted(groups.items(), key=lambda item: -len(item[1])))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; ``declined`` has the keys ``pass``, ``node`` and ``reason``.

        Where time was measured, its ``verdict``, ``ratio`` and ``interval`` come first.
        """
        first = {name: self.latency.get(name) for name in _HEADLINE} if self.latency else {}
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        result: dict[str, Any] = plain({**first, **fields})
        result["declined"] = [
            {"pass": d.pass_name, "node": d.node, "reason": d.reason} for d in self.declined
        ]
        return result


def plain(value: object) -> Any:
    """Turn dataclasses, mappings, sequences and numpy scalars into what JSON can hold.

    Infinity and NaN, which JSON has no word for, become their names.

    Example:
        >>> plain({"sqnr_db": float("inf"), "shape": (1, 2)})
        {'sqnr_db': 'inf', 'shape': [1, 2]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars, without importing numpy here
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
