"""How deep ``compress --prune`` prunes: as deep as a part of the budget allows, on inputs not fitted to.

The share of the multiply-accumulates that goes is bisected.  What is pruned may lose half of the budget, and
half of the noise that is allowed; the rest is left for what comes then.  With a training the same is done
once more from there on, each depth trained before it is judged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from onnxslim.distillation.trainer import Settings
from onnxslim.errors import BudgetError, OnnxSlimError
from onnxslim.recipes.budget import Drop, Target
from onnxslim.recipes.engine import Outcome
from onnxslim.recipes.learning import HELD_OUT_SHARE, Asked, learn
from onnxslim.recipes.opened import Opened
from onnxslim.recipes.parts import Parts
from onnxslim.recipes.pruning.milder import between, furthest
from onnxslim.recipes.pruning.request import PruneRequest
from onnxslim.recipes.pruning.targets import Goal
from onnxslim.recipes.pruning.work import Work
from onnxslim.recipes.quality import Judge
from onnxslim.recipes.search import Progress, Trial

__all__ = ["Depth", "Depths"]

_log = logging.getLogger(__name__)

_PART = 0.5
_ALL = Goal("macs", Target(0.0, "ratio"))
_TRAININGS = 3  # at most


@dataclass(frozen=True)
class Depth:
    """A pruned model.

    Attributes:
        share: of the saving that was asked for.
        name: how deep that is.
        outcome: the model, and all that was done to the original for it.
        notes, distillation: for the report.
    """

    share: float
    name: str
    outcome: Outcome
    notes: tuple[str, ...]
    distillation: Mapping[str, Any] | None = None


@dataclass
class Depths:
    """Finds them.

    Args:
        judge: of the whole budget.
        drop: that budget.
        seconds: that all may take: without a training half of it passes before a last depth is begun; else a
            quarter, and half of it is for trainings.
        distill: seconds of one training; None: nothing is trained.

    Attributes:
        tried: what is not used, with the reason.
    """

    run: Opened
    judge: Judge
    drop: Drop
    seconds: float
    distill: float | None = None
    progress: Progress = lambda message: None
    tried: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds * (0.5 if self.distill is None else 0.25)
        self._judge = self.judge.part(_PART)
        asked, parts = self.run.asked, self.run.parts
        fit, kept = parts.fit, parts.held_out
        if self.distill is not None:  # what decides which weights are kept must not have been fitted to
            fit, kept = fit.split(1 - HELD_OUT_SHARE, asked.seed + 2)
        self._taught = Parts(fit, kept, None)
        request = PruneRequest(goal=_ALL, drop=self.drop, threads=asked.threads, seed=asked.seed)
        self._work = Work(replace(self.run, parts=replace(parts, fit=fit)), request, self.progress)

    def found(self) -> list[Depth]:
        """What is inside, the deepest first, trained ones before others; empty where nothing is."""
        try:
            inside = self._bisected(self._pruned)
            if self.distill is not None:
                inside += self._trained(inside[-1].share if inside else 0.0)
        except OnnxSlimError as error:  # pruning's trouble must not cost the rest
            _log.info("pruning failed", exc_info=True)
            self.tried.append(Trial("pruned", rejected=f"failed: {error.what}"))
            inside = []
        return inside[::-1]

    def _bisected(self, make: Callable[[float], Depth | None], **limits: Any) -> list[Depth]:
        """What of the attempts is inside, the deepest last."""
        inside: list[Depth] = []

        def allowed(depth: Depth | None) -> bool:
            if depth is None:
                return False
            self.progress(f"judging what was {depth.name}")
            score = self._judge.score(depth.outcome.model)
            if score.rejected is not None:
                left = f"{score.rejected}: {_PART:.0%} of the budget is for pruning"
                self.tried.append(Trial(depth.name, score=score, rejected=left))
                return False
            inside.append(depth)
            return True

        furthest(make, allowed, **limits)
        return inside

    def _pruned(self, share: float) -> Depth | None:
        """Prune for a share of the saving; None where that is out of reach, or too late."""
        wanted = f"pruned to {1 - share:.2f} of the products"
        if time.monotonic() > self._end:
            self.tried.append(Trial(wanted, rejected="not tried: --time was used up"))
            return None
        self.progress(f"pruning to {1 - share:.2f} of the products")
        work = self._work
        try:
            pruned = work.made(between(_ALL, share))
        except BudgetError as error:
            self.tried.append(Trial(wanted, rejected=error.what))
            return None
        base = self.run.base
        outcome = Outcome(
            pruned.model,
            [*base.applied, *pruned.outcome.applied],
            [*base.declined, *pruned.declined, *work.declined],
        )
        return Depth(share, wanted, outcome, (*work.notes, *pruned.remarks))

    def _trained(self, low: float) -> list[Depth]:
        """Deeper ones, each trained before it is judged."""
        asked, left = self.distill or 0.0, self.seconds / 2
        seconds = min(asked, left)
        self._end = time.monotonic() + left
        request = Asked(Settings(seconds=seconds, seed=self.run.asked.seed))

        def make(share: float) -> Depth | None:
            depth = self._pruned(share)
            if depth is None:
                return None
            self.progress(f"training what was {depth.name}")
            learned = learn(
                self.run.worker,
                depth.outcome.model,
                self.run.base.model,
                self._taught,
                request,
                self.progress,
            )
            if learned.model is None:
                return replace(depth, notes=(*depth.notes, *learned.notes))
            declined = [*depth.outcome.declined, *learned.declined]
            notes = (*depth.notes, *learned.notes)
            if seconds < asked:
                notes += (f"--time left {seconds:.0f} s for a training",)
            return Depth(
                share,
                f"{depth.name} and distilled",
                Outcome(learned.model, depth.outcome.applied, declined),
                notes,
                {**learned.told, "teacher": self.run.file.path},
            )

        return self._bisected(make, low=low, attempts=min(max(int(left // seconds), 1), _TRAININGS))
