"""How deep ``compress --prune`` prunes: as deep as a part of the budget allows, on inputs not fitted to.

The share of the multiply-accumulates that goes is bisected.  What is pruned may lose half of the budget, and
half of the noise that is allowed; the rest is left for what comes then.  With a training the same is done
once more from there on, each depth trained before it is judged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from onnxslim.distillation.trainer import Settings
from onnxslim.errors import BudgetError, OnnxSlimError
from onnxslim.passes.base import Decline
from onnxslim.recipes.budget import Drop, Target
from onnxslim.recipes.engine import Outcome
from onnxslim.recipes.learning import HELD_OUT_SHARE, Asked, learn
from onnxslim.recipes.opened import Opened
from onnxslim.recipes.parts import Parts
from onnxslim.recipes.pruning.milder import between, furthest
from onnxslim.recipes.pruning.request import PruneRequest
from onnxslim.recipes.pruning.targets import Goal, amount
from onnxslim.recipes.pruning.work import Work
from onnxslim.recipes.quality import Judge
from onnxslim.recipes.search import NOT_TRIED, Progress, Trial

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
        removed: which channels.
        name: how deep that is.
        outcome: the model, and all that was done to the original for it.
        notes, distillation: for the report.
    """

    share: float
    removed: Hashable
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
        request = PruneRequest(goal=_ALL, drop=self.drop, threads=self.run.threads, seed=asked.seed)
        self._work = Work(replace(self.run, parts=replace(parts, fit=fit)), request, self.progress)

    @property
    def declined(self) -> list[Decline]:
        """Which channels cannot go, and why."""
        return self._work.declined

    def found(self) -> list[Depth]:
        """The deepest that is trained and inside, the deepest that is not trained, then the rest."""
        plain: list[Depth] = []
        trained: list[Depth] = []
        try:
            plain = self._bisected()[::-1]
            trained = self._trained(plain[0].share if plain else 0.0)[::-1]
        except OnnxSlimError as error:  # pruning's trouble must not cost the rest
            _log.info("pruning failed", exc_info=True)
            what = "trained" if plain else "pruned"
            self.tried.append(Trial(what, rejected=f"failed: {error.what}"))
        return [*trained[:1], *plain[:1], *trained[1:], *plain[1:]]

    def _bisected(self, finish: Callable[[Depth], Depth] | None = None, **limits: Any) -> list[Depth]:
        """What of the attempts is inside once it is finished, the deepest last."""
        inside: list[Depth] = []
        known: dict[Hashable, bool] = {}  # channels stay in multiples, so that two shares may be one model

        def allowed(depth: Depth | None) -> bool:
            if depth is None:
                return False
            if depth.removed not in known:
                done = depth if finish is None else finish(depth)
                self.progress(f"judging what was {done.name}")
                score = self._judge.score(done.outcome.model)
                known[depth.removed] = score.rejected is None
                if score.rejected is None:
                    inside.append(done)
                else:
                    why = f"{score.rejected}: {_PART:.0%} of the budget is for pruning"
                    self.tried.append(Trial(done.name, score=score, rejected=why))
            return known[depth.removed]

        furthest(self._pruned, allowed, **limits)
        return inside

    def _pruned(self, share: float) -> Depth | None:
        """Prune for a share of the saving; None where that is out of reach, or too late."""
        wanted = f"pruned to {1 - share:.2f} of the products"
        if time.monotonic() > self._end:
            if not (self.tried and self.tried[-1].rejected == NOT_TRIED):
                self.tried.append(Trial(wanted, rejected=NOT_TRIED))
            return None
        self.progress(f"pruning to {1 - share:.2f} of the products")
        work, base = self._work, self._work.base
        try:
            pruned = work.made(between(_ALL, share))
        except BudgetError as error:
            self.tried.append(Trial(wanted, rejected=error.what))
            return None
        feed = next(iter(self.run.parts.held_out))
        left = amount(pruned.model, "macs", feed) / amount(self.run.original, "macs", feed)
        outcome = Outcome(
            pruned.model,
            [*base.applied, *pruned.outcome.applied],
            [*base.declined, *pruned.declined, *work.declined],
        )
        return Depth(
            share,
            frozenset((key, tuple(atoms)) for key, atoms in pruned.removal.items()),
            f"pruned to {left:.2f} of the products",
            outcome,
            (*work.notes, *pruned.remarks),
        )

    def _trained(self, low: float) -> list[Depth]:
        """Deeper ones, each trained before it is judged, if a training is asked for."""
        if self.distill is None:
            return []
        wanted, left = self.distill, self.seconds / 2
        seconds = min(wanted, left)
        if not seconds:
            self.tried.append(Trial("distilled", rejected=NOT_TRIED))
            return []
        self._end = time.monotonic() + left
        request = Asked(Settings(seconds=seconds, seed=self.run.asked.seed))
        teacher = self.run.base.model

        def train(depth: Depth) -> Depth:
            self.progress(f"training what was {depth.name}")
            outcome, worker = depth.outcome, self.run.worker
            learned = learn(worker, outcome.model, teacher, self._taught, request, self.progress)
            notes = (*depth.notes, *learned.notes)
            if learned.model is None:
                return replace(depth, notes=notes)
            if seconds < wanted:
                notes += (f"--time left {seconds:.0f} s for a training",)
            return replace(
                depth,
                name=f"{depth.name} and distilled",
                outcome=Outcome(learned.model, outcome.applied, [*outcome.declined, *learned.declined]),
                notes=notes,
                distillation={**learned.told, "teacher": self.run.file.path},
            )

        return self._bisected(train, low=low, attempts=min(max(int(left // seconds), 1), _TRAININGS))
