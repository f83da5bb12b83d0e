"""Every error that onnxslim raises on purpose.

An error is three short lines: what is wrong, where (file, node, tensor), what to try.  The class decides the
exit code of the command line.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BudgetError",
    "CalibrationError",
    "DependencyError",
    "ModelError",
    "OnnxSlimError",
    "OptionError",
    "PassError",
    "ResourceError",
    "VerificationError",
]


class OnnxSlimError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: what is wrong, one sentence without a final stop.
        where: the file, node or tensor concerned.
        hint: what to try.

    Example:
        >>> print(ModelError("the file is empty", where="model.onnx", hint="export it again"))
        the file is empty
          where: model.onnx
          try:   export it again
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.hint:
            lines.append(f"  try:   {self.hint}")
        return "\n".join(lines)


class ModelError(OnnxSlimError):
    """The model is invalid, unreadable or of a kind that is refused."""

    exit_code = 2


class OptionError(OnnxSlimError):
    """An option, argument or recipe is wrong."""

    exit_code = 2


class ResourceError(OnnxSlimError):
    """A limit of memory, time, size or disk was reached."""

    exit_code = 2


class CalibrationError(OnnxSlimError):
    """The data does not fit the model, or holds values that cannot be used."""

    exit_code = 2


class PassError(OnnxSlimError):
    """A pass broke one of its contracts."""

    exit_code = 1


class VerificationError(OnnxSlimError):
    """The result differs from the original and nothing is left to roll back."""

    exit_code = 3


class BudgetError(OnnxSlimError):
    """A budget, target or gate was not met."""

    exit_code = 4


class DependencyError(OnnxSlimError):
    """An optional dependency is missing; the hint is the pip line."""

    exit_code = 5
