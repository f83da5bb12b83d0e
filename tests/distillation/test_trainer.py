"""Which weights a training keeps, told by looks that are known beforehand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxslim.distillation import trainer as module
from onnxslim.distillation.forms import Coded, Codes, Plain, Scale
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


def test_patience_counts_from_the_best_that_training_came_to() -> None:
    """A start that was fitted in closed form is better than all that follows for a while."""
    state = State(99, 0.1, looks=[Look(0, {}, 1.0, 0.1)])
    assert state.waited == 0
    for step, (loss, waited) in enumerate(((5.0, 0), (4.0, 0), (4.5, 1), (4.0, 2), (3.0, 0), (3.0, 1)), 1):
        state.looks.append(Look(step, {}, 0.5, loss))
        assert state.waited == waited
    state.looks.insert(1, Look(1, {}, 0.5, float("nan")))
    assert state.waited == 1


def test_no_rate_is_tried_with_which_codes_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """However good the loss of such a trial."""
    forms = {"w": Plain("w", np.zeros(3, np.float32))}
    engine: Any = SimpleNamespace(student=SimpleNamespace(forms=forms))
    trainer = Trainer(engine, pool=None, judge=None, settings=Settings(steps=1000))  # type: ignore[arg-type]
    monkeypatch.setattr(Trainer, "_trial", lambda self, rate, steps: rate)  # the smaller, the better
    assert trainer._least_rate(1000) == 0.0
    assert min(trainer._rates(48, 0.0)) == 1e-5
    places = np.zeros(4, np.int64), np.arange(4, dtype=np.uint8)
    codes = Codes("c", np.array([0b0110], np.uint8), *places, width=1, low=0, high=1)
    signs = Coded(
        codes,
        Scale("s", np.ones(1, np.float32), np.zeros(4, np.int64)),
        np.array([0.1, 0.18, 0.3, 0.1], np.float32),
        np.full(4, 0.5, np.float32),
        (4,),
    )
    forms["v"] = signs  # type: ignore[assignment]
    least = trainer._least_rate(1000)
    assert least == pytest.approx(0.14 / 500)
    assert min(trainer._rates(48, least)) == 3e-4
    assert min(trainer._rates(48, 1.0)) == 3e-2


@pytest.mark.parametrize(
    ("shapes", "steps"),
    [
        (1, (100 - 9) / 1),  # one session is built
        (4, (100 - 36) / 1),
        (32, (100 - 50) / (1 + 9 / 2)),  # half of the sessions are gone when they are needed again
    ],
)
def test_the_number_of_steps_counts_what_is_built(
    shapes: int, steps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of one second, of which the first takes nine more."""
    now = [0.0]

    def step(self: Trainer, state: State, steps: int) -> float:
        now[0] += 10.0 if now[0] == 0 else 1.0
        return 1.0

    monkeypatch.setattr(Trainer, "_advance", step)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    engine: Any = SimpleNamespace(student=SimpleNamespace(forms={}))
    pool: Any = SimpleNamespace(shapes=shapes)
    trainer = Trainer(engine, pool=pool, judge=None, settings=Settings(None))  # type: ignore[arg-type]
    assert trainer._room(100.0) == pytest.approx(steps / 1.1)
