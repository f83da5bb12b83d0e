"""The one place that imports ``onnx_ir``.

``onnx_ir`` imports sympy at its top, which is half of its import time, for symbolic dimension arithmetic
that most runs never do. While it is being imported a stand-in takes sympy's place; the stand-in loads the
real package at its first use, and is gone from ``sys.modules`` before anybody else can meet it.

Write ``from onnxslim._ir import ir`` everywhere else (ruff enforces it).
"""

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

__all__ = ["inline_functions", "ir"]


class _DeferredSympy(types.ModuleType):
    """Stands in for sympy; the names that onnx_ir takes at import time resolve on their first call."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        if _imported:  # at run time the real thing is wanted, for isinstance too
            return getattr(importlib.import_module("sympy"), name)  # type: ignore[no-any-return]

        def resolve(*args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module("sympy"), name)(*args, **kwargs)

        return resolve


_imported = False
if "sympy" in sys.modules or "onnx_ir" in sys.modules:
    import onnx_ir as ir
else:
    sys.modules["sympy"] = _DeferredSympy("sympy")
    try:
        import onnx_ir as ir
    finally:
        del sys.modules["sympy"]
_imported = True


def inline_functions(model: ir.Model) -> None:
    """Put the nodes of a model's own functions in the place of their calls."""
    from onnx_ir.passes.common import InlinePass  # loads more of onnx_ir than most runs need

    InlinePass()(model)
