"""``prune``: simplify, find channels, rank them, remove what the target asks for, reconstruct, prove it.

Nothing is chosen by the test data.  With ``test`` they are a source of their own, and a metric that is a
function brings its own; otherwise ``data`` is split 70/30 by the seed.  Of the rest one part is what channels
are ranked on and another where the noise of a group is measured; the reconstruction is fitted on both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxslim._ir import ir
from onnxslim.analysis.channels import Channels, Group, Mask, find_groups, weights_digest
from onnxslim.analysis.cost import cost
from onnxslim.analysis.selection import Selection
from onnxslim.calibration.data import DataLike
from onnxslim.errors import BudgetError
from onnxslim.measure.latency import Latency, measure_latency
from onnxslim.measure.metrics import resolve
from onnxslim.measure.verify import verify
from onnxslim.model.io import FileInfo, ModelLike, load, save
from onnxslim.passes.base import Decline, Promise
from onnxslim.recipes.engine import Outcome, run_steps
from onnxslim.recipes.evidence import latency_fields
from onnxslim.recipes.named import simplify_steps
from onnxslim.recipes.parts import Parts, open_data, split_data
from onnxslim.recipes.pipeline import Result, source_file
from onnxslim.recipes.proof import Prover
from onnxslim.recipes.pruning.apply import Pruned, pruned
from onnxslim.recipes.pruning.blocks import block_names, rank_blocks, skip_until, skipped
from onnxslim.recipes.pruning.criteria import criterion
from onnxslim.recipes.pruning.evidence import Evidence
from onnxslim.recipes.pruning.merging import Into
from onnxslim.recipes.pruning.plan import Allocation, Plan, Removal, is_block, make_plan
from onnxslim.recipes.pruning.reconstruct import reconstruct
from onnxslim.recipes.pruning.request import PruneRequest
from onnxslim.recipes.pruning.samples import Samples, held
from onnxslim.recipes.pruning.targets import meet, reached
from onnxslim.recipes.pruning.timing import timed
from onnxslim.recipes.pruning.widths import shapes_for, sized
from onnxslim.recipes.pruning.zeroing import zeroed
from onnxslim.report.report import Report
from onnxslim.runtime.client import Worker, open_worker
from onnxslim.runtime.environment import environment

__all__ = ["PruneResult", "prune_model"]

Progress = Callable[[str], None]

_HELD_OUT = 32  # feeds on which the noise of a group is measured
_LATENCY_FEEDS = 4
_LATENCY_S = 8.0
_NAME = "prune-channels"


@dataclass(frozen=True)
class PruneResult(Result):
    """The pruned model, and the mask that says what went: of the simplified model's groups."""

    mask: Mask = field(default_factory=lambda: Mask({}))


def prune_model(
    source: ModelLike,
    data: DataLike | None,
    request: PruneRequest,
    *,
    test: DataLike | None = None,
    data_options: Mapping[str, Any] | None = None,
    progress: Progress = lambda message: None,
) -> PruneResult:
    """Prune a model.

    Raises:
        CalibrationError: the data do not fit the model.
        BudgetError: the target is not met, or more is lost than allowed.
        OptionError: a mask of another model.
    """
    original = load(source)
    with open_worker() as worker, tempfile.TemporaryDirectory(prefix="onnxslim-") as name:
        folder = Path(name)
        file = source_file(source, original) or save(original, folder / "original.onnx")
        progress("simplifying")
        prover = Prover(worker, limit_bytes=request.verify_limit, seed=request.seed)
        base = run_steps(original, simplify_steps(), prover)
        given: DataLike = "random" if data is None else data
        opened = open_data(worker, original, given, seed=request.seed, **(data_options or {}))
        own_test = request.metric is not None and ":" in request.metric
        parts = split_data(opened, test, original, seed=request.seed, own_test=own_test)
        metric = resolve(
            request.metric or "agreement", original=original, feeds=parts.test, output=request.output
        )
        work = _Work(worker, base, parts, request, original, file, folder, progress)
        ways = {"weight": work.zero, "block": work.skip}
        found = ways.get(request.granularity, work.prune)()
        result = save(found.model, folder / "result.onnx")
        progress("scoring the result")
        before, after = metric.score(file.path), metric.score(result.path)
        drop = request.drop
        if drop is not None and not drop.allows(before.value, after.value, before.resolution):
            raise BudgetError(
                f"{metric.name} falls from {before.value:.4f} to {after.value:.4f}, more than {drop}",
                hint="ask for less, allow a larger --max-drop, or give more --data",
            )
        progress("measuring time")
        latency = latency_fields(work.latency(result))
        feeds = list(parts.held_out.spread(_LATENCY_FEEDS))
        checked = verify(original, found.model, feeds, promise=Promise.LOSSY, worker=worker)
        report = Report(
            input=file,
            before=sized(original, feeds[0]),
            after=sized(found.model, feeds[0]),
            passes=(*base.applied, *found.outcome.applied),
            declined=(*base.declined, *found.outcome.declined, *work.declined),
            verification=checked.to_dict(),
            metric={"name": metric.name, "before": before.value, "after": after.value, "n": after.n}
            | {"interval": after.interval},
            latency=latency,
            environment=environment(),
            seeds={"data": request.seed},
            notes=(*prover.notes, *parts.notes, *work.notes),
        )
        mask = Mask(found.removal, weights_digest(base.model))
    return PruneResult(found.model, report, mask=mask)


@dataclass
class _Work:
    """One run: the simplified model, the data, and what was asked for."""

    worker: Worker
    base: Outcome
    parts: Parts
    request: PruneRequest
    original: ir.Model
    file: FileInfo
    folder: Path
    progress: Progress
    notes: list[str] = field(default_factory=list)
    declined: list[Decline] = field(default_factory=list)
    merges: Into | None = None
    evidence: Sequence[Evidence] = ()

    def prune(self) -> Pruned:
        """Remove channels or heads, those of the mask if there is one."""
        request, model = self.request, self.base.model
        channels = find_groups(model, residual=request.residual)
        self.declined += [Decline(_NAME, pin.value, pin.reason) for pin in channels.pins if not pin.interface]
        if request.mask is not None:
            request.mask.check(model)
            found = self._apply(channels, request.mask.remove)
        else:
            assert request.goal is not None
            if request.goal.kind == "macs":
                self.notes += self._uncounted()
            plan = self._plan(channels, list(self._free(channels)))
            found = meet(
                plan, request.goal, lambda removal, final: self._apply(channels, removal, final), self
            )
        if found.removal and request.reconstruct and not found.refitted:
            self.notes.append("nothing was refitted: no product of a known kind lies behind what went")
        if found.refitted:
            better = sum(each.damping is not None for each in found.refitted)
            self.notes.append(f"{better} of {len(found.refitted)} products behind what went were refitted")
        self.declined += [Decline("reconstruct", r.name, r.declined) for r in found.refitted if r.declined]
        if not found.removal:
            self.notes.append("no channels were removed: none may go, or none that are worth so little")
        return found

    def _uncounted(self) -> Iterator[str]:
        """What is not in the multiply-accumulates."""
        shapes = shapes_for(self.base.model, next(iter(self.parts.held_out)))
        if unknown := cost(self.base.model, shapes).unknown_macs:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            yield f"the products of {unknown[0]}{more} are not counted: their sizes come out of a run only"

    def skip(self) -> Pruned:
        """Leave out residual blocks."""
        goal, model = self.request.goal, self.base.model
        assert goal is not None
        names = [name for name in block_names(model) if not self.request.protect.has_name(name)]
        feeds = list(self.parts.held_out.spread(_HELD_OUT))
        self.progress("measuring blocks")
        ranked = rank_blocks(self.worker, model, names, feeds)
        if goal.kind == "ratio":
            gone = ranked[: round(goal.target.value * len(ranked))]
            outcome = skipped(model, gone)
        else:
            outcome, gone = skip_until(model, ranked, reached(goal, self, feeds[0]))
        self.notes.append(f"{len(gone)} of {len(names)} residual blocks were left out")
        found = Pruned(outcome, {})
        if gone and self.request.reconstruct:
            found.refitted = reconstruct(
                self.worker,
                model,
                outcome.model,
                self._feeds(),
                {},
                seed=self.request.seed,
                progress=self.progress,
            )
        return found

    def zero(self) -> Pruned:
        """Set single weights to zero."""
        request = self.request
        outcome = zeroed(
            self.worker,
            self.base.model,
            request.sparsity,
            request.criterion or "l1",
            feeds=self._feeds(),
            exclude=",".join(request.protect.names),
            seed=request.seed,
        )
        self.notes.append("zeros in weights save no time in onnxruntime, which multiplies with them as well")
        return Pruned(outcome, {})

    def latency(self, file: FileInfo, seconds: float = _LATENCY_S) -> Latency:
        """Time of another file against the original."""
        feeds = list(self.parts.held_out.spread(_LATENCY_FEEDS))
        threads, seed = self.request.threads, self.request.seed
        return measure_latency(
            self.file.path, file.path, feeds=feeds, threads=threads, budget_s=seconds, seed=seed
        )

    def _plan(self, channels: Channels, groups: Sequence[Group]) -> Plan:
        request, informed = self.request, not self.parts.fit.is_random
        chosen = criterion(request.criterion or ("reconstruction" if informed else "l2"))
        if not informed:
            self.notes.append("without --data channels are ranked and weights are fitted on random inputs")
        plan = make_plan(
            self.worker,
            self.base.model,
            channels,
            groups,
            chosen,
            # without data the weights say more about which channels are alike than random inputs
            feeds=held(self.parts.fit) if informed or chosen.merges is None else None,
            held_out=list(self.parts.held_out.spread(_HELD_OUT)),
            allocation=self._allocation(informed),
            multiple=request.multiple,
            seed=request.seed,
            progress=self.progress,
        )
        if request.goal is not None and request.goal.kind == "latency":
            self.progress("profiling nodes")

            def make(removal: Removal) -> ir.Model:
                return self._apply(channels, removal, final=False).model

            plan.widths = timed(plan, list(self.parts.held_out.spread(_LATENCY_FEEDS)), make, request.threads)
        self.merges, self.evidence = chosen.merges, plan.evidence
        plan.overrides = {
            curve.group.key: ratio
            for curve in plan.curves
            for glob, ratio in request.ratios.items()
            if _named(curve.group, Selection.parse(glob))
        }
        return plan

    def _allocation(self, informed: bool) -> Allocation:
        goal = self.request.goal
        if goal is not None and goal.kind == "free":
            return "global"  # the criterion's own scores say what is worth nothing
        return self.request.allocation or ("sensitivity" if informed else "uniform")

    def _apply(self, channels: Channels, removal: Removal, final: bool = True) -> Pruned:
        return pruned(
            self.base.model,
            channels,
            removal,
            worker=self.worker,
            feeds=self._feeds() if final and self.request.reconstruct else None,
            merges=self.merges,
            evidence=self.evidence,
            residual=self.request.residual,
            seed=self.request.seed,
            progress=self.progress,
        )

    def _feeds(self) -> Samples:
        """All that is not tested on."""
        return held(self.parts.fit, self.parts.held_out)

    def _free(self, channels: Channels) -> Iterator[Group]:
        """The groups that may lose atoms; why not, of the others."""
        by_head = self.request.granularity == "head"
        for group in channels.groups:
            heads = is_block(group)
            if heads != by_head:
                continue
            if _named(group, self.request.protect):
                self.declined.append(Decline(_NAME, group.key, "protected by the user"))
            elif group.size <= (1 if heads else self.request.multiple):
                reason = f"its {group.size} channels are no more than the multiple that stays in any case"
                self.declined.append(Decline(_NAME, group.key, reason))
            else:
                yield group


def _named(group: Group, selection: Selection) -> bool:
    """Whether the user means a group: by its key, or by the name of a tensor that makes its channels."""
    made = (member.value for member in group.with_role("producer"))
    return any(map(selection.has_name, (group.key, *made)))
