"""The function behind ``onnxslim prune``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from onnxslim.analysis.channels import Mask
from onnxslim.calibration.data import DataLike
from onnxslim.model.io import ModelLike
from onnxslim.recipes.budget import Drop, Target
from onnxslim.recipes.pruning.plan import Allocation
from onnxslim.recipes.pruning.prune import PruneResult, prune_model
from onnxslim.recipes.pruning.request import Granularity, request_of
from onnxslim.recipes.search import Progress

__all__ = ["prune"]


def prune(
    source: ModelLike,
    data: DataLike | None = None,
    *,
    granularity: Granularity = "channel",
    criterion: str | None = None,
    allocation: Allocation | None = None,
    ratio: float | None = None,
    ratios: Mapping[str, float] | None = None,
    sparsity: str | float | None = None,
    target_macs: str | Target | None = None,
    target_params: str | Target | None = None,
    target_bytes: str | Target | None = None,
    target_latency: str | Target | None = None,
    multiple: int = 8,
    steps: int = 1,
    protect: Iterable[str] = (),
    residual: bool = False,
    mask: str | os.PathLike[str] | Mask | None = None,
    reconstruct: bool = True,
    test: DataLike | None = None,
    metric: str | None = None,
    metric_output: str | None = None,
    max_drop: str | float | Drop | None = None,
    distill: str | float | None = None,
    samples: int | None = None,
    batch: int | None = None,
    images: Any = None,
    threads: int = 1,
    seed: int = 0,
    progress: Progress = lambda message: None,
) -> PruneResult:
    """Remove channels, heads or single weights, and fit what stays to what the original computed.

    Args:
        source: path, ``ModelProto`` or ``ir.Model``; never changed.
        data: inputs to rank on and to reconstruct on; without them random ones.
        granularity: ``channel``, ``head``, ``block`` (residual blocks, by their effect on the outputs), or
            ``weight``: single weights, which are set to zero.
        criterion: how channels are ranked, see :mod:`onnxslim.recipes.pruning.criteria`.
        allocation: ``uniform``, ``global`` or ``sensitivity``, see :mod:`onnxslim.recipes.pruning.plan`.
        ratio: share of the channels to remove.  One of ``ratio``, a target and ``mask`` says how much goes;
            with the criterion ``sparsity`` none need: then what is zero, or never used, goes.
        ratios: glob of weight names -> the share that goes of their output channels, whatever the target.
        sparsity: of ``weight``: share of zeros, or ``"2:4"``.
        target_macs, target_params, target_bytes, target_latency: ``"0.7x"`` of the original, or absolute.
        multiple: numbers of channels that stay are multiples of it.
        steps: in how many steps; after each, what is left is refitted and ranked anew.
        protect: globs of the names of weights whose output channels stay.
        residual: also channels that a normalisation averages over; that is less exact.
        mask: removes what it says.
        reconstruct: refit the products behind what was removed.
        max_drop: what may be lost of the metric at most; where the target costs more, the most of the saving
            that does not is taken, as judged on inputs that nothing was fitted to.
        distill: let the result learn from the original for so long (``"5min"``), see
            :func:`onnxslim.distill`.

    The other arguments are those of :func:`onnxslim.compress`.

    Raises:
        OptionError: nothing, or more than one thing, says how much; an unknown criterion; a foreign mask.
        CalibrationError: the data do not fit the model.
        BudgetError: a target is not met, or more than ``max_drop`` is lost.
    """
    request = request_of(
        granularity=granularity,
        criterion=criterion,
        allocation=allocation,
        goals={
            "ratio": ratio,
            "macs": target_macs,
            "params": target_params,
            "bytes": target_bytes,
            "latency": target_latency,
        },
        ratios=dict(ratios or {}),
        sparsity=sparsity,
        multiple=multiple,
        steps=steps,
        protect=protect,
        residual=residual,
        mask=mask,
        reconstruct=reconstruct,
        metric=metric,
        output=metric_output,
        max_drop=max_drop,
        threads=threads,
        seed=seed,
    )
    options = {"samples": samples, "batch": batch, "images": images}
    if distill is None:
        return prune_model(source, data, request, test=test, data_options=options, progress=progress)
    from onnxslim.recipes.distilled import distilled  # what is only pruned need not pay for it

    def make(pool: DataLike, tested: DataLike | None) -> PruneResult:
        return prune_model(source, pool, replace(request, drop=None), test=tested, progress=progress)

    return distilled(
        make,
        source,
        data,
        time=distill,
        drop=request.drop,
        test=test,
        metric=metric,
        metric_output=metric_output,
        data_options=options,
        seed=seed,
        progress=progress,
    )
