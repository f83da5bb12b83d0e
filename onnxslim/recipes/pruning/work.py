"""One run of ``prune``: what was asked for, on one model with its data, in each granularity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from onnxslim._ir import ir
from onnxslim.analysis.channels import Channels, Group, find_groups
from onnxslim.analysis.cost import cost
from onnxslim.analysis.selection import Selection
from onnxslim.errors import BudgetError
from onnxslim.measure.metrics import resolve
from onnxslim.model.io import save
from onnxslim.passes.base import Decline
from onnxslim.passes.deduplicate_initializers import DeduplicateInitializers
from onnxslim.passes.separate_vectors import SeparateVectors
from onnxslim.recipes.budget import Drop, Target
from onnxslim.recipes.engine import Outcome, run_steps
from onnxslim.recipes.opened import Opened
from onnxslim.recipes.pruning.apply import Pruned, pruned
from onnxslim.recipes.pruning.blocks import block_names, rank_blocks, skip_until, skipped
from onnxslim.recipes.pruning.criteria import Criterion, criterion
from onnxslim.recipes.pruning.milder import between, furthest
from onnxslim.recipes.pruning.plan import Allocation, Plan, Removal, is_block, make_plan
from onnxslim.recipes.pruning.reconstruct import reconstruct
from onnxslim.recipes.pruning.request import PruneRequest
from onnxslim.recipes.pruning.samples import Samples, held
from onnxslim.recipes.pruning.steps import Left
from onnxslim.recipes.pruning.targets import Goal, amount, meet, reached
from onnxslim.recipes.pruning.timing import timed
from onnxslim.recipes.pruning.widths import shapes_for
from onnxslim.recipes.pruning.zeroing import zeroed

__all__ = ["Work"]

_HELD_OUT = 32  # feeds on which the noise of a group is measured
_LATENCY_FEEDS = 4
_NAME = "prune-channels"


@dataclass
class Work:
    """One run: the simplified model with its data, and what was asked for.

    Attributes:
        base: what is pruned: the simplified model, every vector read once.
    """

    run: Opened
    request: PruneRequest
    progress: Callable[[str], None]
    notes: list[str] = field(default_factory=list)
    declined: list[Decline] = field(default_factory=list)
    base: Outcome = field(init=False)
    _found: Channels | None = None
    _planned: Plan | None = None
    _blocks: list[str] | None = None

    def __post_init__(self) -> None:
        """Vectors that layers share by chance must tie no channels; in the end equal ones are one again."""
        self.base = self.run.base.then(run_steps(self.run.base.model, (SeparateVectors(),)))

    def best(self) -> Pruned:
        """As much as was asked for; where that loses too much, as much as the budget allows.

        Raises:
            BudgetError: the target is out of reach, or a small part of the saving loses too much already.
        """
        goal, drop = self.request.goal, self.request.drop
        found = self.made(goal)
        if drop is not None and goal is not None and goal.target.value > 0:
            inside = self._inside(drop)
            if not inside(found):
                found = self._milder(goal, drop, inside)
        return found

    def made(self, goal: Goal | None) -> Pruned:
        """As much as a goal says.

        Raises:
            BudgetError: it is out of reach.
        """
        ways = {"weight": self._zero, "block": self._skip}
        found = ways.get(self.request.granularity, self._prune)(goal)
        shared = run_steps(found.model, (DeduplicateInitializers(),))
        found.outcome = found.outcome.then(replace(shared, declined=[]))  # the simplification said it
        return found

    def _inside(self, drop: Drop) -> Callable[[Pruned], bool]:
        """Whether a model is inside the budget, on inputs that nothing was fitted to."""
        spec = self.request.metric or "agreement"
        if spec == "top1" and self.run.parts.held_out.labels is None:
            spec = "agreement"
        metric = resolve(
            spec, original=self.run.original, feeds=self.run.parts.held_out, output=self.request.output
        )
        before = metric.score(self.run.file.path)

        def inside(found: Pruned) -> bool:
            self.progress("scoring on held-out inputs")
            path = save(found.model, self.run.folder / "judged.onnx", force=True).path
            return drop.allows(before.value, metric.score(path).value, before.resolution)

        return inside

    def _milder(self, goal: Goal, drop: Drop, inside: Callable[[Pruned], bool]) -> Pruned:
        """The most that is inside the budget."""
        full = self._full(goal)
        found = furthest(lambda share: self.made(between(goal, share, full)), inside)
        if found is None:
            raise BudgetError(
                f"a sixteenth of the saving that was asked for loses more than {drop} already",
                hint="allow a larger --max-drop, give more --data, or protect what matters",
            )
        share, pruned = found
        by = "the metric, which was looked at for that" if self.run.own_metric else "held-out inputs"
        more = f"what was asked for loses more than {drop}"
        self.notes.append(f"{more}: {share:.0%} of the saving was taken, judged by {by}")
        return pruned

    def _full(self, goal: Goal) -> float:
        """What the original has, in the unit of an absolute goal."""
        if goal.target.kind == "ratio":
            return 1.0
        if goal.kind == "latency":
            return float(self.run.latency(self.run.file).seconds_b)
        return amount(self.run.original, goal.kind, next(iter(self.run.parts.held_out)))

    def _prune(self, goal: Goal | None) -> Pruned:
        """Remove channels or heads, those of the mask if there is one."""
        request, model = self.request, self.base.model
        channels = self._channels()
        if request.mask is not None:
            request.mask.check(model)
            found = self._apply(channels, request.mask.remove)
        else:
            assert goal is not None
            found = self._stepwise(channels, goal)
        if not found.removal:
            found.notes = ("no channels were removed: none may go, or none that are worth so little",)
        elif request.reconstruct and not found.refitted:
            found.notes = ("nothing was refitted: no product of a known kind lies behind what went",)
        return found

    def _stepwise(self, channels: Channels, goal: Goal) -> Pruned:
        """Remove in equal steps; after each, what is left is refitted and ranked anew."""
        steps, full = self.request.steps, self._full(goal)
        plan = self._first_plan(channels)
        found = meet(plan, between(goal, 1 / steps, full), partial(self._apply, channels), self.run)
        for step in range(2, steps + 1):
            now = find_groups(found.model, residual=self.request.residual)
            left = Left.of(channels, found.removal, now)
            if left is None:
                self.notes.append("channels belong together otherwise once some went: all go in one step")
                return meet(plan, goal, partial(self._apply, channels), self.run)
            part = between(goal, step / steps, full)
            if goal.kind == "ratio":  # of the channels that are still there
                gone = (step - 1) / steps * goal.target.value
                part = Goal("ratio", Target(goal.target.value / steps / (1 - gone), "ratio"))
            found = meet(
                self._plan(found.model, now),
                part,
                lambda removal, final, left=left: self._apply(channels, left.and_then(removal), final),  # type: ignore[misc]
                self.run,
            )
        return found

    def _channels(self) -> Channels:
        if self._found is None:
            self._found = find_groups(self.base.model, residual=self.request.residual)
            pins = (pin for pin in self._found.pins if not pin.interface)
            self.declined += [Decline(_NAME, pin.value, pin.reason) for pin in pins]
        return self._found

    def _first_plan(self, channels: Channels) -> Plan:
        """The plan for the model as it came, made once."""
        if self._planned is None:
            request = self.request
            if request.goal is not None and request.goal.kind == "macs":
                self.notes += self._uncounted()
            if self.run.parts.fit.is_random:
                self.notes.append(
                    "without --data channels are ranked and weights are fitted on random inputs"
                )
            self.declined += self._unfree(channels)
            self._planned = self._plan(self.base.model, channels)
        return self._planned

    def _uncounted(self) -> Iterator[str]:
        """What is not in the multiply-accumulates."""
        shapes = shapes_for(self.base.model, next(iter(self.run.parts.held_out)))
        if unknown := cost(self.base.model, shapes).unknown_macs:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            yield f"the products of {unknown[0]}{more} are not counted: their sizes come out of a run only"

    def _skip(self, goal: Goal | None) -> Pruned:
        """Leave out residual blocks."""
        model = self.base.model
        assert goal is not None
        names = [name for name in block_names(model) if not self.request.protect.has_name(name)]
        feeds = list(self.run.parts.held_out.spread(_HELD_OUT))
        if self._blocks is None:
            self.progress("measuring blocks")
            self._blocks = rank_blocks(self.run.worker, model, names, feeds)
        if goal.kind == "ratio":
            gone = self._blocks[: round(goal.target.value * len(self._blocks))]
            outcome = skipped(model, gone)
        else:
            outcome, gone = skip_until(model, self._blocks, reached(goal, self.run, feeds[0]))
        found = Pruned(outcome, {}, notes=(f"{len(gone)} of {len(names)} residual blocks were left out",))
        if gone and self.request.reconstruct:
            found.refitted = reconstruct(
                self.run.worker,
                model,
                outcome.model,
                self._feeds(),
                {},
                seed=self.request.seed,
                progress=self.progress,
            )
        return found

    def _zero(self, goal: Goal | None) -> Pruned:
        """Set single weights to zero."""
        request = self.request
        outcome = zeroed(
            self.run.worker,
            self.base.model,
            request.sparsity if goal is None else f"{goal.target.value:g}",
            request.criterion or "l1",
            feeds=self._feeds(),
            exclude=",".join(request.protect.names),
            seed=request.seed,
        )
        said = "zeros in weights save no time in onnxruntime, which multiplies with them as well"
        return Pruned(outcome, {}, notes=(said,))

    def _plan(self, model: ir.Model, channels: Channels) -> Plan:
        """Rank the groups of a model: the one that came, or one with channels gone already."""
        request, informed = self.request, not self.run.parts.fit.is_random
        plan = make_plan(
            self.run.worker,
            model,
            channels,
            [group for group in channels.groups if self._stays(group) is None],
            self._criterion,
            # without data the weights say more about which channels are alike than random inputs
            feeds=held(self.run.parts.fit) if informed or self._criterion.merges is None else None,
            held_out=list(self.run.parts.held_out.spread(_HELD_OUT)),
            allocation=self._allocation(informed),
            multiple=request.multiple,
            seed=request.seed,
            progress=self.progress,
        )
        if request.goal is not None and request.goal.kind == "latency":
            self.progress("profiling nodes")

            def make(removal: Removal) -> ir.Model:
                return pruned(model, channels, removal, residual=request.residual).model

            plan.widths = timed(
                plan, list(self.run.parts.held_out.spread(_LATENCY_FEEDS)), make, request.threads
            )
        plan.overrides = {
            curve.group.key: ratio
            for curve in plan.curves
            for glob, ratio in request.ratios.items()
            if _named(curve.group, Selection.parse(glob))
        }
        return plan

    @property
    def _criterion(self) -> Criterion:
        return criterion(
            self.request.criterion or ("l2" if self.run.parts.fit.is_random else "reconstruction")
        )

    def _allocation(self, informed: bool) -> Allocation:
        goal = self.request.goal
        if goal is not None and goal.kind == "free":
            return "global"  # the criterion's own scores say what is worth nothing
        return self.request.allocation or ("sensitivity" if informed else "uniform")

    def _apply(self, channels: Channels, removal: Removal, final: bool = True) -> Pruned:
        plan = self._planned  # of the model as it came, as ``removal`` is; None for a mask
        return pruned(
            self.base.model,
            channels,
            removal,
            worker=self.run.worker,
            feeds=self._feeds() if final and self.request.reconstruct else None,
            merges=None if plan is None else self._criterion.merges,
            evidence=() if plan is None else plan.evidence,
            residual=self.request.residual,
            seed=self.request.seed,
            progress=self.progress,
        )

    def _feeds(self) -> Samples:
        """All that is not tested on, and that no budget is judged on."""
        if self.request.drop is not None:
            return held(self.run.parts.fit)
        return held(self.run.parts.fit, self.run.parts.held_out)

    def _stays(self, group: Group) -> str | None:
        """Why a group may lose nothing; None where it may, empty where it is none of this granularity."""
        heads = is_block(group)
        if heads != (self.request.granularity == "head"):
            return ""
        if _named(group, self.request.protect):
            return "protected by the user"
        if group.size <= (1 if heads else self.request.multiple):
            return f"its {group.size} channels are no more than the multiple that stays in any case"
        return None

    def _unfree(self, channels: Channels) -> Iterator[Decline]:
        """The groups that stay, and why."""
        for group in channels.groups:
            if reason := self._stays(group):
                yield Decline(_NAME, group.key, reason)


def _named(group: Group, selection: Selection) -> bool:
    """Whether the user means a group: by its key, or by the name of a tensor that makes its channels."""
    made = (member.value for member in group.with_role("producer"))
    return any(map(selection.has_name, (group.key, *made)))
