"""What can go wrong when a model runs in the worker."""

from __future__ import annotations

from onnxslim.errors import ModelError, ResourceError

__all__ = ["MemoryLimit", "RemoteError", "RuntimeRefused", "WorkerDied", "WorkerTimeout"]


class RuntimeRefused(ModelError):  # noqa: N818
    """onnxruntime raised: it does not load the model, or does not run it on this feed."""


class WorkerDied(ResourceError):  # noqa: N818
    """The worker process ended while it was working; ``what`` names the signal."""


class WorkerTimeout(ResourceError):  # noqa: N818
    """The worker was still at it when its time was up, and was killed."""


class MemoryLimit(ResourceError):  # noqa: N818
    """The model asked for more memory than the worker's budget."""


class RemoteError(RuntimeError):
    """A function called in the worker raised: our own bug; the text is the traceback from there."""
