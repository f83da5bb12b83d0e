"""What the installed onnxruntime says about itself; runs in the worker process only."""

from __future__ import annotations

import sys

import onnxruntime

__all__ = ["modules", "providers", "version"]


def providers() -> list[str]:
    """The names of the execution providers in this build."""
    return list(onnxruntime.get_available_providers())


def modules() -> list[str]:
    """The top-level packages that this process has imported."""
    return sorted({name.partition(".")[0] for name in sys.modules})


def version() -> str:
    """Of onnxruntime."""
    return str(onnxruntime.__version__)
