"""Which weights a training keeps, told by looks that are known beforehand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxslim.distillation.forms import Plain
from onnxslim.distillation.judge import Look
from onnxslim.distillation.losses import Term
from onnxslim.distillation.trainer import Settings, State, Trainer

TERM = Term("mse", "y", "y")


@pytest.mark.parametrize(
    ("looks", "best"),
    [
        ([(0.9, 1.0), (0.8, 0.5), (0.9, 0.7), (0.95, 0.8)], 2),  # (agreement, loss): 1 agrees less
        ([(0.9, 1.0), (0.8, 0.5), (0.7, 0.1), (0.95, 1.1)], 0),
        ([(0.5, 1.0), (0.6, 0.9), (0.5, 0.8), (0.5, 0.6)], 3),
    ],
    ids=["one agrees less", "none is better", "the last"],
)
def test_the_least_loss_among_those_that_agree_as_often_as_at_first(
    looks: list[tuple[float, float]], best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = Plain("w", np.zeros(3, np.float32))
    engine: Any = SimpleNamespace(
        student=SimpleNamespace(forms={"w": form}), terms=[TERM], weights={TERM.name: 1.0}
    )
    seen = [Look(step, {TERM.name: loss}, agreement, loss) for step, (agreement, loss) in enumerate(looks)]
    judge: Any = SimpleNamespace(look=lambda engine, step: seen[step])

    def step(self: Trainer, state: State, steps: int) -> float:
        form.latent += 1  # after step n every weight is n
        return 1.0

    monkeypatch.setattr(Trainer, "_advance", step)
    trainer = Trainer(engine, pool=None, judge=judge, settings=Settings(steps=3))  # type: ignore[arg-type]
    state = State(3, 0.1, looks=[seen[0]], best_look=seen[0], best={"w/weight": form.latent.copy()})
    done = trainer.run(state)
    assert done.best_look == seen[best]
    assert form.latent.tolist() == done.best["w/weight"].tolist() == [best] * 3
