"""The feeds behind ``--data``, for verbs that take two models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxslim.calibration.data import Feeds

__all__ = ["feeds_of"]


def feeds_of(path: str, data: str | None, **how: Any) -> Feeds | None:
    """Open ``data`` for the inputs of the model at ``path``; None without data.

    Args:
        path: a model.
        data: the value of ``--data``.
        how: further arguments of :func:`onnxslim.calibration.data.open_feeds`.
    """
    if data is None:
        return None
    from onnxslim.calibration.data import open_feeds
    from onnxslim.model.io import load

    return open_feeds(data, load(path), **how)
