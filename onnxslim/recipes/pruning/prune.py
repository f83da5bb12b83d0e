"""``prune``: simplify, find channels, rank them, remove what the target asks for, reconstruct, prove it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from onnxslim._ir import ir
from onnxslim.analysis.channels import Channels, Group, Mask, find_groups, weights_digest
from onnxslim.analysis.cost import summary
from onnxslim.analysis.selection import Selection
from onnxslim.calibration.data import Feeds
from onnxslim.errors import BudgetError, OptionError
from onnxslim.measure.metrics import MetricResult, resolve
from onnxslim.measure.verify import verify
from onnxslim.model.io import FileInfo, ModelLike, load, save
from onnxslim.passes.base import Decline, Promise
from onnxslim.recipes.budget import Drop, Target
from onnxslim.recipes.engine import Outcome, run_steps
from onnxslim.recipes.evidence import latency_fields
from onnxslim.recipes.named import simplify_steps
from onnxslim.recipes.parts import Parts, open_data, split_data
from onnxslim.recipes.pipeline import Result, path_of, source_file
from onnxslim.recipes.proof import Prover
from onnxslim.recipes.pruning.apply import Pruned, pruned
from onnxslim.recipes.pruning.criteria import criterion
from onnxslim.recipes.pruning.plan import Allocation, Plan, Removal, make_plan
from onnxslim.recipes.pruning.targets import Goal, meet
from onnxslim.recipes.pruning.zeroing import Pattern, zeroed
from onnxslim.report.report import Report
from onnxslim.runtime.client import Worker, open_worker
from onnxslim.runtime.environment import environment

__all__ = ["Granularity", "PruneRequest", "prune_model"]

Progress = Callable[[str], None]
Granularity = Literal["channel", "head", "block", "weight"]

_HELD_OUT = 32  # feeds on which the noise of a group is measured
_LATENCY_FEEDS = 4
_LATENCY_S = 8.0
_NAME = "prune-channels"


@dataclass(frozen=True)
class PruneRequest:
    """What the user asked for, read and checked; see :func:`onnxslim.prune` for the meaning."""

    granularity: Granularity = "channel"
    criterion: str | None = None
    allocation: Allocation | None = None
    goal: Goal | None = None
    pattern: Pattern | None = None
    mask: Mask | None = None
    drop: Drop | None = None
    multiple: int = 8
    protect: Selection = Selection.parse("")
    ratios: Mapping[str, float] = field(default_factory=dict)
    residual: bool = False
    reconstruct: bool = True
    metric: str | None = None
    output: str | None = None
    threads: int = 1
    verify_limit: int = 10**9
    seed: int = 0


def prune_model(
    source: ModelLike,
    data: Any,
    request: PruneRequest,
    *,
    test: Any = None,
    data_options: Mapping[str, Any] | None = None,
    progress: Progress = lambda message: None,
) -> tuple[Result, Mask]:
    """Prune a model; the result, and the mask that says which channels of the simplified model went.

    Raises:
        CalibrationError: the data do not fit the model.
        BudgetError: the target is not met, or more is lost than allowed.
        OptionError: a mask of another model, an unknown criterion.
    """
    original = load(source)
    with open_worker() as worker, tempfile.TemporaryDirectory(prefix="onnxslim-") as name:
        folder = Path(name)
        file = source_file(source, original) or save(original, folder / "original.onnx")
        progress("simplifying")
        prover = Prover(worker, limit_bytes=request.verify_limit, seed=request.seed)
        base = run_steps(original, simplify_steps(), prover)
        opened = open_data(worker, original, "random" if data is None else data, seed=request.seed, **(data_options or {}))
        own_test = request.metric is not None and ":" in request.metric
        parts = split_data(opened, test, original, seed=request.seed, own_test=own_test)
        metric = resolve(
            request.metric or "agreement", original=original, feeds=parts.test, output=request.output
        )
        work = _Work(worker, base, parts, request, file, folder, progress)
        if request.granularity == "weight":
            result, mask, declined = work.zero_weights()
        else:
            result, mask, declined = work.remove_channels()
        after_file = save(result.model, folder / "result.onnx")
        progress("scoring the result")
        before, after = metric.score(file.path), metric.score(after_file.path)
        if request.drop is not None and not request.drop.allows(before.value, after.value, before.resolution):
            raise BudgetError(
                f"{metric.name} falls from {before.value:.4f} to {after.value:.4f}, more than {request.drop}",
                hint="ask for less, allow a larger --max-drop, or give more --data",
            )
        progress("measuring time")
        latency = work.latency(after_file)
        feeds = list(parts.held_out.spread(_LATENCY_FEEDS))
        checked = verify(original, result.model, feeds, promise=Promise.LOSSY, worker=worker)
        report = Report(
            input=file,
            before=summary(original),
            after=summary(result.model),
            passes=(*base.applied, *result.outcome.applied),
            declined=(*base.declined, *result.outcome.declined, *declined),
            verification=checked.to_dict(),
            metric=_metric_fields(metric.name, before, after),
            latency=latency_fields(latency),
            environment=environment(),
            seeds={"data": request.seed},
            notes=(*prover.notes, *parts.notes, *work.notes),
        )
    return Result(result.model, report), mask


def _metric_fields(name: str, before: MetricResult, after: MetricResult) -> dict[str, Any]:
    fields = {"name": name, "before": before.value, "after": after.value, "n": after.n}
    return fields | {"interval": after.interval}


@dataclass
class _Work:
    """One run: the simplified model, the data, and what was asked for."""

    worker: Worker
    base: Outcome
    parts: Parts
    request: PruneRequest
    file: FileInfo
    folder: Path
    progress: Progress
    notes: list[str] = field(default_factory=list)

    def remove_channels(self) -> tuple[Pruned, Mask, list[Decline]]:
        """Channels, heads or what a mask names."""
        request, model = self.request, self.base.model
        channels = find_groups(model, residual=request.residual)
        declined = [Decline(_NAME, pin.value, pin.reason) for pin in channels.pins]
        if request.mask is not None:
            request.mask.check(model)
            found = self._apply(channels, _known(request.mask, channels))
            return found, self._mask(found.removal), declined
        groups = []
        for group in channels.groups:
            reason = self._refusal(group)
            if reason is None:
                groups.append(group)
            else:
                declined.append(Decline(_NAME, group.key, reason))
        plan = self._plan(channels, groups)
        found = meet(
            plan,
            self._goal(),
            lambda removal, final: self._apply(channels, removal, reconstruct=final),
            self,
        )
        if not found.removal:
            self.notes.append("no channels were removed: nothing that may go saves what was asked for")
        return found, self._mask(found.removal), declined

    def zero_weights(self) -> tuple[Pruned, Mask, list[Decline]]:
        """Single weights."""
        request = self.request
        if request.pattern is None:
            raise OptionError("--granularity weight needs --sparsity", hint="write --sparsity 0.5 or 2:4")
        outcome, declined = zeroed(
            self.worker,
            self.base.model,
            request.pattern,
            request.criterion or "l1",
            feeds=self.parts.fit,
            protect=request.protect,
            reconstruct=request.reconstruct,
            seed=request.seed,
        )
        self.notes.append("zeros in weights save no time in onnxruntime, which multiplies with them as well")
        return Pruned(outcome, {}), Mask({}), declined

    def latency(self, file: FileInfo, seconds: float = _LATENCY_S) -> Any:
        """Time of the original file and of another one."""
        from onnxslim.measure.latency import measure_latency

        feeds = list(self.parts.held_out.spread(_LATENCY_FEEDS))
        return measure_latency(
            self.file.path, file.path, feeds=feeds, threads=self.request.threads, budget_s=seconds, seed=self.request.seed
        )

    def _plan(self, channels: Channels, groups: list[Group]) -> Plan:
        request = self.request
        informed = not self.parts.fit.is_random
        if not informed:
            self.notes.append("without --data channels are ranked, and weights reconstructed, on random inputs")
        chosen = criterion(request.criterion or ("obs" if informed else "l2"))
        plan = make_plan(
            self.worker,
            self.base.model,
            channels,
            groups,
            chosen,
            feeds=_kept_in_memory(self.parts.fit),
            held_out=list(self.parts.held_out.spread(_HELD_OUT)),
            allocation=request.allocation or ("sensitivity" if informed else "uniform"),
            multiple=request.multiple,
            seed=request.seed,
            progress=self.progress,
        )
        plan.overrides = {
            curve.group.key: ratio
            for curve in plan.curves
            for glob, ratio in request.ratios.items()
            if _named(curve.group, Selection.parse(glob))
        }
        return plan

    def _goal(self) -> Goal:
        if self.request.goal is None:
            raise OptionError(
                "nothing says how much to prune",
                hint="give --ratio, --target-macs, --target-params, --target-bytes, --target-latency or --mask",
            )
        return self.request.goal

    def _apply(self, channels: Channels, removal: Removal, *, reconstruct: bool = True) -> Pruned:
        feeds = self.parts.fit if self.request.reconstruct and reconstruct else None
        return pruned(
            self.base.model,
            channels,
            removal,
            worker=self.worker,
            feeds=None if feeds is None else _kept_in_memory(self.parts.fit, self.parts.held_out),
            residual=self.request.residual,
            seed=self.request.seed,
            progress=self.progress,
        )

    def _mask(self, removal: Removal) -> Mask:
        return Mask(removal, weights_digest(self.base.model))

    def _refusal(self, group: Group) -> str | None:
        """Why a group keeps all that it has."""
        if _named(group, self.request.protect):
            return "protected by the user"
        heads = any(member.inner > 1 for member in group.with_role("producer"))
        if heads != (self.request.granularity == "head"):
            return "its atoms are blocks of channels" if heads else "its atoms are single channels"
        if group.size <= self.request.multiple and not heads:
            return f"it has {group.size} channels, and {self.request.multiple} stay in any case"
        return None


def _named(group: Group, selection: Selection) -> bool:
    return selection.has_name(group.key) or any(selection.has_name(member.value) for member in group.members)


def _known(mask: Mask, channels: Channels) -> Removal:
    for key, atoms in mask.remove.items():
        group = channels.by_key.get(key)
        if group is None:
            raise OptionError("the mask names a group that the model does not have", where=key)
        if any(atom >= group.size for atom in atoms) or len(set(atoms)) >= group.size:
            raise OptionError("the mask leaves nothing of a group, or goes beyond it", where=key)
    return mask.remove


def _kept_in_memory(*parts: Feeds, limit: int = 256 << 20) -> Any:
    """The feeds as a list, which is not read and prepared anew for each pass, where that is small."""
    feeds = [feed for part in parts for feed in part]
    return feeds
