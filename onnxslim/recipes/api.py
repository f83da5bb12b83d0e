"""The functions behind the verbs: simplify, quantize, compress, compare, run a recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from onnxslim._ir import ir
from onnxslim.analysis.indices import index_limits
from onnxslim.calibration.data import DataLike, open_feeds
from onnxslim.errors import CalibrationError, OptionError, VerificationError
from onnxslim.measure.layers import Layer, layer_noise
from onnxslim.measure.setting import thread_counts
from onnxslim.measure.verify import Verification
from onnxslim.model.io import ModelLike, load
from onnxslim.passes.base import Promise
from onnxslim.passes.raise_opset import RaiseOpset
from onnxslim.passes.set_input_shapes import SetInputShapes
from onnxslim.recipes.budget import (
    Drop,
    Target,
    parse_drop,
    parse_duration,
    parse_latency_target,
    parse_size_target,
)
from onnxslim.recipes.engine import Step
from onnxslim.recipes.named import simplify_steps
from onnxslim.recipes.pipeline import Pipeline, Result
from onnxslim.recipes.proof import Prover, running_feeds, worker_limits
from onnxslim.recipes.recipe import apply_overrides, load_recipe, steps_of
from onnxslim.runtime.client import open_worker

if TYPE_CHECKING:
    from onnxslim.calibration.store import Calibration
    from onnxslim.recipes.search import Objective, Progress

__all__ = ["compare", "compare_layers", "compress", "quantize", "run_recipe", "simplify"]

_RANDOM_LAYER_FEEDS = 4

Feeds = Iterable[Mapping[str, Any]]
Overrides = Mapping[str, Mapping[str, Any]]


def simplify(
    source: ModelLike,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    dims: Mapping[str, int] | None = None,
    opset: int | None = None,
    verify: bool = True,
    verify_limit: int = 10**9,
    feeds: Feeds | None = None,
    options: Overrides | None = None,
    seed: int = 0,
) -> Result:
    """Fold, merge and remove what a model computes in vain; the outputs stay equal, and the file never grows.

    Args:
        source: path, ``ModelProto`` or ``ir.Model``; never changed.
        input_shapes: shapes to fix, by input name.
        dims: symbolic dimensions to fix, by name.
        opset: raise an older operator set to this one.
        verify: run both models on the same inputs and compare.
        verify_limit: models of more bytes are not verified; the report says so.
        feeds: what to verify on; default: random inputs.
        options: ``{pass name: {option: value}}``.

    Raises:
        ModelError: the model is invalid.
        OptionError: an input, dimension, pass or option does not exist.

    Example:
        >>> import onnx.parser
        >>> proto = onnx.parser.parse_model(
        ...     '<ir_version: 8, opset_import: ["" : 17]>'
        ...     'g (float[2] x) => (float[2] y) { a = Identity(x) y = Relu(a) }')
        >>> [node.op_type for node in simplify(proto).model.graph]
        ['Relu']
    """
    steps = apply_overrides(simplify_steps(), options or {})
    if input_shapes or dims:
        steps = (SetInputShapes(dict(input_shapes or {}), dict(dims or {})), *steps)
    if opset is not None:
        steps = (RaiseOpset(opset), *steps)
    # what was asked for may take bytes
    pipeline = Pipeline(steps, verify, feeds, verify_limit, seed, never_grow=opset is None)
    return pipeline.run(source)


def compress(
    source: ModelLike,
    data: DataLike,
    *,
    test: DataLike | None = None,
    metric: str | None = None,
    metric_output: str | None = None,
    max_drop: str | float | Drop = "1%",
    min_sqnr: float = 0.0,
    target_latency: str | Target | None = None,
    target_bytes: str | Target | None = None,
    objective: Objective = "both",
    weights: str = "int8",
    prune: bool = False,
    distill: str | float | None = None,
    time: str | float = "10min",
    samples: int | None = None,
    batch: int | None = None,
    images: Any = None,
    threads: int | Sequence[int] = 1,
    target: str | None = None,
    seed: int = 0,
    progress: Progress = lambda message: None,
) -> Result:
    """Make a model smaller and faster inside an accuracy budget, or return it unchanged and say why.

    Args:
        source: path, ``ModelProto`` or ``ir.Model``; never changed.
        data: inputs to calibrate and select on; ``samples``, ``batch``, ``images`` as in ``open_feeds``.
        test: labelled inputs that score the winner, once; without them ``data`` is split 70/30.
        metric: ``top1``, ``agreement`` (default), ``module:function`` or ``path.py:function``.
        metric_output: the output that the metric reads; default the first.
        max_drop: what may be lost of the metric: ``0.01`` absolute, ``"1%"`` relative.
        min_sqnr: decibels of signal over noise of every output on held-out inputs; 10 in any case.
        target_latency: ``"0.7x"`` or ``"5ms"``.
        target_bytes: ``"0.3x"`` or ``"2MB"``.
        objective: what is minimised among the candidates that pay: time x bytes, time, or bytes.
        weights: the fewest bits that weights may be stored in: ``int8``, ``int4``, ``int2``, ``binary``, with
            ``binary:2`` for at most two signs a weight.
        prune: also try the model with channels removed, as deep as half of ``max_drop`` allows; what was not
            pruned stays a candidate.
        distill: let what was pruned learn from the original for so long (``"2min"``), which goes deeper.
        time: no new candidate is begun after this long; with ``prune`` half of it is for what is not pruned.
        threads: of the latency measurement; with several numbers, the result must not be slower with any of
            them, and the worst ratio counts.
        target: the hardware to place quantizers for; default this machine.
        seed: of every split.
        progress: called with a line of text as the work goes on.

    Returns:
        The result; ``report.tried`` says what became of each candidate.

    Raises:
        CalibrationError: the data do not fit the model.
        BudgetError: an explicit target is not met.
        OptionError: ``distill`` without ``prune``, which leaves nothing to train.
    """
    from onnxslim.recipes.compress import search_best  # simplify must not pay for these
    from onnxslim.recipes.request import Request

    request = Request(
        drop=parse_drop(max_drop),
        min_sqnr=min_sqnr,
        metric=metric,
        output=metric_output,
        latency=None if target_latency is None else parse_latency_target(target_latency),
        size=None if target_bytes is None else parse_size_target(target_bytes),
        objective=objective,
        weights=weights,
        prune=prune,
        distill=None if distill is None else parse_duration(distill, "--distill"),
        seconds=parse_duration(time),
        threads=thread_counts(threads),
        target=target,
        seed=seed,
    )
    options = {"samples": samples, "batch": batch, "images": images}
    return search_best(source, data, request, test=test, data_options=options, progress=progress)


def quantize(
    source: ModelLike,
    data: DataLike | None = None,
    *,
    calibration: Calibration | None = None,
    mode: Literal["auto", "static", "dynamic", "weight-only"] = "auto",
    weights: str = "int8",
    activations: Literal["", "uint8", "int8", "uint16", "int16", "float8e4m3fn", "binary"] = "",
    metric: str | None = None,
    metric_output: str | None = None,
    max_drop: str | float | Drop = "1%",
    min_sqnr: float = 0.0,
    time: str | float = "10min",
    samples: int | None = None,
    batch: int | None = None,
    images: Any = None,
    threads: int | Sequence[int] = 1,
    target: str | None = None,
    integer_io: bool = False,
    distill: str | float | None = None,
    options: Overrides | None = None,
    seed: int = 0,
    progress: Progress = lambda message: None,
) -> Result:
    """Quantize a model where integers pay; what would be slower or too inaccurate stays in float.

    Args:
        source: path, ``ModelProto`` or ``ir.Model``; never changed.
        data: inputs to calibrate on and to judge the result with; without them random inputs judge.  Only the
            modes ``dynamic`` and ``weight-only`` do without both data and calibration.
        calibration: what :func:`onnxslim.calibrate` made of this very model, instead of calibrating here.
        mode: which forms are tried.
        integer_io: let inputs and outputs be integers of the same name and shape; the metadata say what they
            stand for, see :mod:`onnxslim.model.encoding`.
        weights: the fewest bits that weights may be stored in: ``int8``, ``int4``, ``int2``, ``binary``, with
            ``binary:2`` for at most two signs a weight.
        activations: the type of static activations, of those that the target lists; default its first.
            ``float8e4m3fn`` makes 8-bit floats of weights too.
            ``binary``, with binary weights: products read ``scale * sign(x - threshold) + offset`` where
            held-out data accept it, and floats elsewhere; the notes of the report say which.
        distill: let the result learn from the original for so long, see :func:`onnxslim.distill`; what
            may be lost is then asked of what has learned, and the smallest form may be chosen before.
        options: ``{pass name: {option: value}}``.

    The other arguments are those of :func:`compress`.

    Raises:
        CalibrationError: the data or the calibration do not belong to the model.
    """
    # simplify must not pay for these
    from onnxslim.recipes.candidates import UNCALIBRATED
    from onnxslim.recipes.compress import search_best
    from onnxslim.recipes.request import Request

    if data is None and calibration is None and mode not in UNCALIBRATED:
        raise OptionError(
            f"quantize in mode {mode} needs data or a calibration",
            hint="give --data or --calibration, or choose a mode that needs none: " + ", ".join(UNCALIBRATED),
        )
    signs = activations == "binary"
    if signs and (mode not in ("auto", "weight-only") or not weights.startswith("binary") or data is None):
        raise OptionError(
            "binary activations go with binary weights, and are fitted on data",
            hint="--weights binary --activations binary --data D, without --mode static or dynamic",
        )
    model = load(source)
    if calibration is not None:
        calibration.check(source)

    request = Request(
        drop=parse_drop(max_drop),
        min_sqnr=min_sqnr,
        mode="weight-only" if signs else mode,
        weights=weights,
        activations="" if activations == "binary" else activations,
        sign_inputs=signs,
        metric=metric,
        output=metric_output,
        threads=thread_counts(threads),
        target=target,
        seed=seed,
        overrides=dict(options or {}),
        integer_io=integer_io,
        seconds=parse_duration(time),
    )
    data_options = {"samples": samples, "batch": batch, "images": images}

    def make(chosen: DataLike, asked: Request, how: Mapping[str, Any]) -> Result:
        return search_best(
            source if not isinstance(source, ir.Model) else model,
            chosen,
            asked,
            calibration=calibration,
            data_options=how,
            progress=progress,
        )

    if distill is None:
        return make("random" if data is None else data, request, data_options)
    if integer_io:
        raise OptionError("a model with integer inputs learns nothing", hint="leave --integer-io out")
    from onnxslim.recipes.distilled import distilled

    return distilled(
        lambda pool, test: make(pool, replace(request, drop=Drop(1.0, relative=True), min_sqnr=0.0), {}),
        source,
        data,
        time=distill,
        drop=request.drop,
        min_sqnr=min_sqnr,
        metric=metric,
        metric_output=metric_output,
        data_options=data_options,
        seed=seed,
        progress=progress,
    )


def compare(
    a: ModelLike,
    b: ModelLike,
    feeds: Feeds | None = None,
    *,
    promise: Literal["exact", "close"] = "close",
    seed: int = 0,
) -> Verification:
    """Run two models on the same feeds with onnxruntime's optimizations off and compare their outputs.

    Args:
        a: the reference.
        b: what is compared with it.
        feeds: ``{input name: array}`` each; default random inputs.
        promise: ``exact``: bit-equal; ``close``: ``max|d| <= 1e-4 max|ref| + 1e-6`` per output.

    Raises:
        VerificationError: nothing could be compared; the message says why.
    """
    reference, other = load(a), load(b)
    with open_worker(**worker_limits(reference)) as worker:
        prover = Prover(worker, feeds, limit_bytes=2**62, seed=seed, samples=2**31, random_samples=4)
        difference = prover(reference, other, Promise(promise))
    if prover.last is None:
        raise VerificationError(difference or "; ".join(prover.notes) or "nothing could be compared")
    return prover.last


def compare_layers(a: ModelLike, b: ModelLike, feeds: Feeds | None = None, *, seed: int = 0) -> list[Layer]:
    """Where a model made from another one loses accuracy: signal to noise of every value that both name.

    Args:
        a: the reference.
        b: what was made of it, for example by quantizing.
        feeds: ``{input name: array}`` each, gone through several times; default random inputs.

    Raises:
        VerificationError: the models have no value in common.

    Example:
        >>> import onnx.parser
        >>> header = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y)'
        >>> header += "<float s = {0.1}>"
        >>> a = onnx.parser.parse_model(header + "{ e = Exp(x)  y = Neg(e) }")
        >>> b = onnx.parser.parse_model(
        ...     header + "{ e = Exp(x)  q = QuantizeLinear(e, s)  d = DequantizeLinear(q, s)  y = Neg(d) }")
        >>> [(layer.value, layer.sqnr_db < 100, layer.own_db < 100) for layer in compare_layers(a, b)]
        [('e', True, True), ('y', True, False)]
    """
    reference, other = load(a), load(b)
    with open_worker(**worker_limits(reference)) as worker:
        if feeds is None:
            with worker.load(reference) as session:
                limits = index_limits(reference)
                feeds = running_feeds(session, session.inputs, _RANDOM_LAYER_FEEDS, seed, limits)
        return layer_noise(reference, other, feeds, worker)


def run_recipe(
    recipe: str | os.PathLike[str],
    source: ModelLike,
    data: DataLike | None = None,
    *,
    samples: int | None = None,
    batch: int | None = None,
    images: Any = None,
    verify: bool = True,
    verify_limit: int = 10**9,
    options: Overrides | None = None,
    seed: int = 0,
) -> Result:
    """Run the passes of a TOML recipe.

    Args:
        recipe: the file; see :mod:`onnxslim.recipes.recipe`.
        source: path, ``ModelProto`` or ``ir.Model``; never changed.
        data: what passes calibrate on and what is verified on.
        options: ``{pass name: {option: value}}``, stronger than the recipe's.

    Raises:
        OptionError: the recipe is wrong, or a pass needs data and there are none.
    """
    specs = load_recipe(recipe)
    feeds = None
    calibrated: Callable[[ir.Model], Calibration] | None = None
    if data is not None:
        opened = open_feeds(data, load(source), samples=samples, batch=batch, images=images, seed=seed)
        if len(opened) == 0:
            raise CalibrationError("the data holds no samples")
        feeds = opened

        from onnxslim.calibration.runner import calibrate

        def calibrated(model: ir.Model) -> Calibration:
            return calibrate(model, opened)

    steps: tuple[Step, ...] = apply_overrides(steps_of(specs, calibrated), options or {})
    return Pipeline(steps, verify, feeds, verify_limit, seed).run(source)
