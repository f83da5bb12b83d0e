"""What the search tries: passes in three parts, and where a milder form of it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxslim.recipes.engine import Step
from onnxslim.recipes.storage import Choices

__all__ = ["Candidate"]


@dataclass(frozen=True)
class Candidate:
    """A way to compress a model.

    Attributes:
        name: for the report.
        head: the passes that decide what is computed with integers.
        packing: those that decide how weights are stored.
        ports: those that quantize inputs and outputs, if they are asked for.
        essential: the name of the pass without whose effect the candidate is not worth trying.
        storage: what ``packing`` was chosen from: a cleaner choice is a milder form.  None where the milder
            form is one with fewer integers, or where there is none.
    """

    name: str
    head: Sequence[Step]
    packing: Sequence[Step] = ()
    ports: Sequence[Step] = ()
    essential: str = ""
    storage: Choices | None = None

    @property
    def passes(self) -> tuple[Step, ...]:
        """What to apply, in order."""
        return (*self.head, *self.packing, *self.ports)

    @property
    def kind(self) -> tuple[str, int]:
        """The same for candidates that have their milder forms in common."""
        return self.essential, id(self.storage)
