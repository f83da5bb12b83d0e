"""Training block by block: each learns the teacher's value behind it, from what the trained ones before give.

Only one block and its gradients are in memory; student and teacher run forward up to it.  After each block
the whole student is looked at, and what is kept are the blocks after which it agrees best with the teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

import numpy.typing as npt

from onnxslim.distillation.engine import Engine, Observed
from onnxslim.distillation.judge import Look
from onnxslim.distillation.losses import Term
from onnxslim.distillation.parts import Cut, part_of
from onnxslim.distillation.trainer import Kept, State, Trainer

__all__ = ["BlockTrainer"]

Array = npt.NDArray[Any]


@dataclass
class BlockTrainer:
    """Trains the student of a trainer block by block.

    Args:
        whole: looks at the whole student; none of its steps is made.
        cuts: between the blocks.
        keep: told after each look of the state of the whole, of its parameters when the present block began,
            and of that block.
    """

    whole: Trainer
    cuts: Sequence[Cut]
    keep: Callable[[State, Mapping[str, Array], Kept | None], None] = lambda state, parameters, block: None
    _begun: float = field(default_factory=monotonic)

    def begin(self, first: Look) -> State:
        """The state before the first block."""
        state = State(0, 0.0, looks=[first], best_look=first, best=self.whole.copy())
        state.optimizer.name = self.whole.settings.optimizer
        return state

    def run(self, state: State, kept: Kept | None = None) -> State:
        """Train what is left; the student then holds the best weights that were seen.

        Args:
            kept: of the block that comes next, if it has begun.
        """
        ends: list[Cut | None] = [*self.cuts, None]
        for number in range(len(state.blocks), len(ends)):
            before = ends[number - 1] if number else None
            self._block(state, before, ends[number], len(ends) - number, kept)
            kept = None
            self.keep(state, self.whole.parameters(), None)
        self.whole.restore(state.best)
        return state

    def _block(
        self, state: State, before: Cut | None, behind: Cut | None, left: int, kept: Kept | None
    ) -> None:
        engine = self._engine(before, behind)
        engine.plan(self.whole.pool.batch(0).feed)
        number = len(state.blocks) + 1
        where = f"block {number} of {len(self.cuts) + 1}"
        settings, start = self.whole.settings, self.whole.copy()
        if settings.steps is None:
            spent = monotonic() - self._begun
            settings = replace(settings, seconds=max(settings.seconds - spent, 1.0) / left)
        trainer = Trainer(
            engine,
            self.whole.pool,
            self.whole.judge.of_part(engine),
            settings,
            self.whole.labels,
            lambda message: self.whole.progress(f"{where}: {message}"),
            lambda inner, parameters: self.keep(state, start, Kept(inner, parameters)),
            caching=False,
        )
        try:
            first = trainer.prepare()
            if kept is None:
                inner = trainer.begin(first)
            else:
                inner = kept.state
                trainer.restore(kept.parameters)
            trainer.run(inner)
        finally:
            engine.close()
        self._add(state, inner, behind, engine)

    def _add(self, state: State, inner: State, behind: Cut | None, engine: Engine) -> None:
        """Look at the whole student, and note what the block did."""
        assert inner.best_look is not None
        state.step += inner.step
        state.steps += inner.steps
        state.rollbacks += inner.rollbacks
        state.losses += inner.losses
        self.whole.engine.frozen.update(engine.frozen)
        state.blocks.append(
            {
                "value": None if behind is None else behind.value,
                "weights": len(engine.student.forms),
                "steps": inner.step,
                "best": inner.best_look.step,
                "rate": inner.rate,
                "before": inner.looks[0].loss,
                "after": inner.best_look.loss,
            }
        )
        self.whole.look(state)

    def _engine(self, before: Cut | None, behind: Cut | None) -> Engine:
        whole = self.whole.engine
        part = part_of(whole.student, before, behind)
        terms = whole.terms if behind is None else [Term("mse", behind.value, behind.value)]
        entry = None
        if part.before is not None:
            entry = Observed(whole.load(part.before), part.inputs)
        return Engine(
            whole.worker,
            part.student,
            whole.teacher,
            terms,
            whole.threads,
            whole.providers,
            entry,
            lean=True,
            limit=whole.limit,
            strict=whole.strict,
            rows=whole.rows,
            own_loss=whole.own_loss if behind is None else None,
            compared=whole.compared if behind is None else None,
        )
