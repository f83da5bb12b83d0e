"""Make an exported ONNX model smaller and faster, and prove that the result is right.

Everything public is here and loads on first use, so that ``import onnxslim`` costs nothing:

    >>> import onnxslim
    >>> sorted(name for name in dir(onnxslim) if name in ("simplify", "quantize", "compress"))
    ['compress', 'quantize', 'simplify']
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxslim import passes as passes
    from onnxslim.analysis.inspection import inspect as inspect
    from onnxslim.calibration.runner import calibrate as calibrate
    from onnxslim.calibration.store import Calibration as Calibration
    from onnxslim.errors import BudgetError as BudgetError
    from onnxslim.errors import CalibrationError as CalibrationError
    from onnxslim.errors import DependencyError as DependencyError
    from onnxslim.errors import ModelError as ModelError
    from onnxslim.errors import OnnxSlimError as OnnxSlimError
    from onnxslim.errors import OptionError as OptionError
    from onnxslim.errors import PassError as PassError
    from onnxslim.errors import ResourceError as ResourceError
    from onnxslim.errors import VerificationError as VerificationError
    from onnxslim.model.io import load as load
    from onnxslim.model.io import save as save
    from onnxslim.recipes.api import compare as compare
    from onnxslim.recipes.api import compare_layers as compare_layers
    from onnxslim.recipes.api import compress as compress
    from onnxslim.recipes.api import quantize as quantize
    from onnxslim.recipes.api import run_recipe as run_recipe
    from onnxslim.recipes.api import simplify as simplify
    from onnxslim.recipes.bench import bench as bench
    from onnxslim.recipes.distill import distill as distill
    from onnxslim.recipes.pipeline import Pipeline as Pipeline
    from onnxslim.recipes.pipeline import Result as Result
    from onnxslim.recipes.pruning.api import prune as prune
    from onnxslim.recipes.sharing.api import share as share
    from onnxslim.report.report import Report as Report

__version__ = "0.1.0"

_HOME = {
    "BudgetError": "errors",
    "Calibration": "calibration.store",
    "CalibrationError": "errors",
    "DependencyError": "errors",
    "ModelError": "errors",
    "OnnxSlimError": "errors",
    "OptionError": "errors",
    "PassError": "errors",
    "Pipeline": "recipes.pipeline",
    "Report": "report.report",
    "ResourceError": "errors",
    "Result": "recipes.pipeline",
    "VerificationError": "errors",
    "bench": "recipes.bench",
    "calibrate": "calibration.runner",
    "compare": "recipes.api",
    "compare_layers": "recipes.api",
    "compress": "recipes.api",
    "distill": "recipes.distill",
    "inspect": "analysis.inspection",
    "load": "model.io",
    "passes": "",
    "prune": "recipes.pruning.api",
    "quantize": "recipes.api",
    "run_recipe": "recipes.api",
    "save": "model.io",
    "share": "recipes.sharing.api",
    "simplify": "recipes.api",
}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604 (the names above, once)


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        hint = " (that name belongs to the distribution 'onnxslim'; this is 'onnxslim-passes')"
        raise AttributeError(f"module 'onnxslim' has no attribute {name!r}{hint if name == 'slim' else ''}")
    if not home:
        return importlib.import_module(f"onnxslim.{name}")
    value = getattr(importlib.import_module(f"onnxslim.{home}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _warn_of_other_distribution(folder: str) -> None:
    """Another distribution, named ``onnxslim``, installs into this very folder; its files give it away."""
    if {"argparser.py", "version.py", "third_party"}.isdisjoint(os.listdir(folder)):  # noqa: PTH208
        return
    import warnings

    warnings.warn(
        "the distributions 'onnxslim-passes' (this one) and 'onnxslim' (another project) are installed over "
        "each other; keep one: pip uninstall -y onnxslim && "
        "pip install --force-reinstall --no-deps onnxslim-passes",
        RuntimeWarning,
        stacklevel=2,
    )


_warn_of_other_distribution(os.path.dirname(__file__))  # noqa: PTH120 (pathlib would cost 5 ms)
