"""Fit the scales and biases of normalisations again: what they normalise has changed with what lies before.

Between what a normalisation gives now and what it gave in the original lies, for each channel, at best a
line; its slope and offset go into the scale and the bias.  Stored statistics are part of that line as well.
One that only products read is left alone: they are fitted next, and can do the same and more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.linears import owned, with_levels
from onnxslim.model import edit
from onnxslim.ops.registry import spec_of
from onnxslim.recipes.pruning.refitted import Refitted
from onnxslim.recipes.pruning.rows import row_feed, wanted_output
from onnxslim.recipes.pruning.samples import Samples
from onnxslim.reconstruct.ridge import Sums, fit, with_ones
from onnxslim.runtime.client import Worker

__all__ = ["Norm", "norms_of", "refit_norm"]

Array = npt.NDArray[Any]

_ROWS = 8192
_HELD_OUT = 4  # every so manieth sample chooses the damping
_EXACT = 1e-10  # of the energy: an error as small is float rounding


@dataclass(frozen=True)
class Norm:
    """One normalisation with a scale, and perhaps a bias, of its own for each channel.

    Attributes:
        axis: of its output, along which the channels lie.
        level: how many products lie before it.
    """

    node: ir.Node
    axis: int
    level: int

    @property
    def name(self) -> str:
        """The name of its output."""
        return self.node.outputs[0].name or ""

    @property
    def scale(self) -> ir.Value:
        """What it multiplies with."""
        value = self.node.inputs[1]
        assert value is not None
        return value

    @property
    def bias(self) -> ir.Value | None:
        """What it adds."""
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None


def norms_of(model: ir.Model) -> list[Norm]:
    """Those of the main graph that not only products read, in topological order.

    Example:
        >>> import onnx.parser
        >>> text = '''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[n,2] x) => (float[n,2] y) <float[2] s = {1,2}, float[2] b = {1,2}>
        ...     { a = LayerNormalization(x, s, b)  y = Relu(a) }'''
        >>> [norm.name for norm in norms_of(ir.from_proto(onnx.parser.parse_model(text)))]
        ['a']
    """
    found, products = [], set()
    for node, level, product in with_levels(model):
        if product is not None:
            products.add(product.node)
        spec = spec_of(node)
        if spec is None or spec.affine is None or len(node.inputs) < 2:
            continue
        stored = [value for value in node.inputs[1:3] if value is not None]
        if all(owned(value) and value.dtype == ir.DataType.FLOAT for value in stored) and stored:
            found.append(Norm(node, spec.affine(node), level))
    return [
        norm
        for norm in found
        if norm.node.outputs[0].is_graph_output()
        or any(user not in products for user, _ in norm.node.outputs[0].uses())
    ]


def refit_norm(
    worker: Worker,
    original: ir.Model,
    model: ir.Model,
    norm: Norm,
    feeds: Samples,
    kept: npt.NDArray[np.int64] | None,
    seed: int = 0,
) -> Refitted | None:
    """Fit one normalisation of ``model``, in place; None where nothing before it has changed.

    Args:
        kept: the channels of the original that it still has; None: all.
    """
    wanted = [wanted_output(norm.name, norm.axis, _ROWS, len(feeds), seed)]
    scale, bias = edit.constant_value(norm.scale), edit.constant_value(norm.bias)
    assert scale is not None
    parts = [Sums.empty(scale.size, 1 + (bias is not None), 1) for _ in range(2)]
    both = (row_feed(worker, each, feeds, wanted) for each in (model, original))
    for number, ([now], [then]) in enumerate(zip(*both, strict=True)):
        if scale.ndim != 1 or now.shape[1] != scale.size:
            return None  # not one number for each channel
        then = then if kept is None else then[:, kept]
        x, y = (rows.astype(np.float64).T[..., None] for rows in (now, then))
        parts[number % _HELD_OUT == _HELD_OUT - 1].add(x if bias is None else with_ones(x), y)
    line = np.zeros((scale.size, 1 + (bias is not None), 1))
    line[:, 0] = 1.0
    sums, held_out = parts
    energy = max(float(held_out.energy.sum()), float(np.finfo(np.float64).tiny))
    if held_out.error(line) < _EXACT * energy:
        return None
    found = fit(sums, held_out, line, bias=bias is not None)
    before, after = found.before / energy, found.after / energy
    if found.damping is None:
        return Refitted(norm.name, before, after, None, "nothing is better on held-out samples")
    slope = found.weight[:, 0, 0]
    edit.replace_initializer(norm.scale, (scale * slope).astype(np.float32))
    if bias is not None and norm.bias is not None:
        edit.replace_initializer(norm.bias, (bias * slope + found.weight[:, 1, 0]).astype(np.float32))
    return Refitted(norm.name, before, after, found.damping)
