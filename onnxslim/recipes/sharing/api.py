"""The function behind ``onnxslim share``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from onnxslim._ir import ir
from onnxslim.analysis.repeats import function_notes
from onnxslim.analysis.sharing import sharing_notes
from onnxslim.calibration.data import DataLike
from onnxslim.errors import OptionError
from onnxslim.model.io import ModelLike
from onnxslim.passes.extract_functions import ExtractFunctions
from onnxslim.recipes.budget import Drop
from onnxslim.recipes.named import share_steps
from onnxslim.recipes.pipeline import Pipeline, Result
from onnxslim.recipes.pruning.merging import Into
from onnxslim.recipes.recipe import apply_overrides
from onnxslim.recipes.sharing.request import request_of

__all__ = ["share"]


def share(
    source: ModelLike,
    data: DataLike | None = None,
    *,
    tolerance: float | None = None,
    scaled: bool = True,
    merge_neurons: str | float | None = None,
    merge_into: Into = "many",
    codebook: int | None = None,
    vectors: int | None = None,
    functions: bool = False,
    test: DataLike | None = None,
    metric: str | None = None,
    metric_output: str | None = None,
    max_drop: str | float | Drop | None = None,
    samples: int | None = None,
    batch: int | None = None,
    images: Any = None,
    threads: int = 1,
    verify: bool = True,
    verify_limit: int = 10**9,
    feeds: Iterable[Mapping[str, Any]] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    progress: Any = lambda message: None,
) -> Result:
    """Store every weight once: equal ones, and those that one operator makes of another one, bit for bit.

    Nothing else is rewritten, except that what is computed from the same values over the same weights is
    computed once.  The file never grows.  The notes of the report say which weight is stored as which.
    What is only similar is shared where it is asked for, in the simplified model and in this order: neurons,
    tensors and rows, values.

    Args:
        source: path, ``ModelProto`` or ``ir.Model``; never changed.
        data: inputs to observe and to judge on; without them random ones judge, and weights alone decide.
        merge_neurons: share of the channels that others stand in for (``0.1``), or ``"error=0.05"``: all that
            they stand in for with this relative error.
        merge_into: a channel is a multiple of one other, or a sum of ``many``.
        tolerance: let tensors and rows that are equal up to this relative error be one, as long as no output
            is off by more.
        scaled: also those that are nearly multiples of each other.
        codebook: let the weights of a tensor have so many values, times a scale for each block of 32.
        vectors: with ``codebook``, let it hold vectors of 2, 4 or 8 values, with a scale for each row
            (product quantization): 256 vectors of 4 are 2 bits for a weight.
        functions: let parts that compute the same over the same weights from different inputs, twin towers or
            layers that share their weights, be calls of one function of the model; the graph is smaller then,
            nothing is faster.
        test: inputs that score the result, once; default 30 % of ``data``.
        metric, metric_output, samples, batch, images, threads: as in :func:`onnxslim.compress`.
        max_drop: what may be lost of the metric: it decides how far each of the three goes.
        verify, verify_limit, feeds: as in :func:`onnxslim.simplify`, for what is exact.
        options: ``{pass name: {option: value}}``, also of ``merge-similar-weights``, ``codebook-weights`` and
            ``quantize-vectors``.
        seed: of every split.

    Raises:
        ModelError: the model is invalid.
        OptionError: a pass or option does not exist, or a number is out of its range.
        CalibrationError: the data do not fit the model.
        BudgetError: more is lost than allowed.

    Example:
        >>> import onnx.parser
        >>> proto = onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y)
        ...     <float[2] a = {1, 2}, float[2] b = {1, 2}> { h = Add(x, a)  y = Mul(h, b) }''')
        >>> result = share(proto)
        >>> list(result.model.graph.initializers), result.report.notes[-1]
        (['a'], 'smaller tensors that are stored as others: 1')
    """
    request = request_of(
        merge_neurons=merge_neurons,
        tolerance=tolerance,
        codebook=codebook,
        vectors=vectors,
        functions=functions,
        max_drop=max_drop,
        into=merge_into,
        scaled=scaled,
        metric=metric,
        output=metric_output,
        threads=threads,
        verify_limit=verify_limit,
        seed=seed,
    )
    if request.is_exact:
        if data is not None or test is not None or metric is not None:
            raise OptionError(
                "exact sharing needs no data", hint="add --tolerance, --merge-neurons or --codebook"
            )
        extracting = (ExtractFunctions(),) if functions else ()
        steps = apply_overrides((*share_steps(), *extracting), options or {})

        def explain(before: ir.Model, after: ir.Model) -> Iterator[str]:
            yield from sharing_notes(before, after)
            yield from function_notes(before, after)

        pipeline = Pipeline(steps, verify, feeds, verify_limit, seed, never_grow=True, explain=explain)
        return pipeline.run(source)
    from onnxslim.recipes.sharing.nearly import share_nearly  # exact sharing must not pay for it

    data_options = {"samples": samples, "batch": batch, "images": images}
    return share_nearly(
        source, data, request, test=test, data_options=data_options, options=options or {}, progress=progress
    )
