"""Quantizers of activations: their scales are trained as steps, and what is computed from a scale follows.

A bias of integers has the scale of its input times that of its weight, or no integer kernel is made of its
node.  So where a scale is trained, such a bias is rounded anew, and a stored product of both scales is made
anew.  What cannot follow keeps the scale from being trained.

Source: Esser et al., "Learned step size quantization", https://arxiv.org/abs/1902.08153
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.constants import constant_sources
from onnxslim.analysis.shapes import Shapes, infer
from onnxslim.distillation.forms import replace_stored
from onnxslim.model import edit
from onnxslim.ops.linear import is_sum
from onnxslim.ops.registry import is_dequantize, is_quantize, spec_of

__all__ = ["StepSize", "find_step_sizes", "scales_of"]

Array = npt.NDArray[Any]

_SCALE = 1  # the input of a node that quantizes or dequantizes
_CLOSE = 1e-5  # of a stored product of two scales
_PACE = 10.0  # logarithms move so much faster than the rate: a rate for single weights hardly moves a range


@dataclass
class StepSize:
    """The scale of a quantizer of activations, trained by its logarithm, so that it keeps its sign.

    Attributes:
        name: of the stored value.
        stored: its content.
        spread: the square root of (elements of a sample that it quantizes) times (their largest code); by it
            gradients are divided, so that scales and weights grow at similar rates.
        products: stored tensors that are this scale times another -> that other one.

    Example:
        >>> step = StepSize("s", np.array(0.5, np.float32), spread=10.0)
        >>> step.pull(np.array(4.0, np.float32))["scale"]
        array([2.], dtype=float32)
    """

    name: str
    stored: npt.NDArray[np.float32]
    spread: float = 1.0
    products: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.growth = np.zeros(self.stored.size, np.float32)  # logarithms, of scales over stored ones, / pace

    @property
    def kind(self) -> str:
        return "scales of activations"

    @property
    def parameters(self) -> dict[str, Array]:
        return {"scale": self.growth}

    def value(self) -> Array:
        grown = np.exp(np.float32(_PACE) * self.growth).reshape(self.stored.shape)
        return np.asarray(self.stored * grown, np.float32)

    def pull(self, gradient: Array) -> dict[str, Array]:
        found = gradient.reshape(-1) * self.value().reshape(-1) * np.float32(_PACE / self.spread)
        return {"scale": np.asarray(found, np.float32)}

    def ratio(self) -> np.float32:
        """By how much a single scale has grown."""
        return np.float32(self.value().reshape(-1)[0] / self.stored.reshape(-1)[0])

    def store(self, model: ir.Model) -> None:
        replace_stored(model, self.name, self.value())
        for name, other in self.products.items():
            replace_stored(model, name, other * self.value().reshape(-1)[0])


def scales_of(model: ir.Model) -> dict[ir.Value, list[ir.Node]]:
    """The scales of all activations that are quantized, with the nodes that quantize by them."""
    constant = constant_sources(model)
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph.all_nodes():
        scale = node.inputs[_SCALE] if is_quantize(node) else None
        if scale is not None and node.inputs[0] not in constant:
            found.setdefault(scale, []).append(node)
    return found


def find_step_sizes(model: ir.Model) -> tuple[dict[str, StepSize], dict[str, str]]:
    """The scales that can be trained, by name, and the others -> why they cannot."""
    found, refused = dict[str, StepSize](), dict[str, str]()
    shapes, constant = infer(model, batch=1), constant_sources(model)
    for scale, nodes in scales_of(model).items():
        content, why = edit.constant_value(scale), _why_not(model, scale, nodes, constant)
        if why is None and content is not None:
            found[scale.name or ""] = StepSize(
                scale.name or "", np.array(content, np.float32), _spread(nodes, shapes)
            )
        else:
            refused[scale.name or ""] = why or "it is computed"
    if found and all(_whole_exponents(step.stored) for step in found.values()):
        return {}, refused | dict.fromkeys(found, "scales that are powers of two stay so")
    for name in _untold(model, found):
        del found[name]
        refused[name] = "a bias of integers depends on it in a way that is not known"
    return found, refused


def _why_not(
    model: ir.Model, scale: ir.Value, nodes: Iterable[ir.Node], constant: Container[ir.Value]
) -> str | None:
    """Why a scale must stay as it is."""
    if scale.dtype != ir.DataType.FLOAT:
        return "it is no float of 32 bits"
    if not scale.is_initializer() or scale.is_graph_input() or scale.is_graph_output():
        return "it is computed, or given from outside"
    content = edit.constant_value(scale)
    if content is None or not (np.isfinite(content).all() and (content > 0).all()):
        return "it is not positive"
    outside = {*model.graph.inputs, *model.graph.outputs}
    for node, index in scale.uses():
        if any(output in constant for output in node.outputs):
            continue
        if not (is_quantize(node) or is_dequantize(node)) or index != _SCALE:
            return "something else reads it too"
        if not outside.isdisjoint((*node.inputs, *node.outputs)) and _integers(node) in outside:
            return "integers that the model takes or gives have it"
    return None


def _integers(node: ir.Node) -> ir.Value | None:
    return node.outputs[0] if is_quantize(node) else node.inputs[0]


def _spread(nodes: Iterable[ir.Node], shapes: Shapes) -> float:
    elements, largest = 0, 1.0
    for node in nodes:
        dims = () if node.inputs[0] is None else shapes.shape(node.inputs[0]) or ()
        elements += math.prod(dim for dim in dims if isinstance(dim, int))
        dtype = shapes.dtype(node.outputs[0])
        if dtype is not None and dtype.is_integer():
            largest = max(largest, float(dtype.max))
    return math.sqrt(max(elements, 1) * largest)


def _whole_exponents(scales: Array) -> bool:
    return bool((np.frexp(scales)[0] == np.float32(0.5)).all())


def _untold(model: ir.Model, steps: dict[str, StepSize]) -> set[str]:
    """The scales that biases of integers depend on and that these cannot follow; the others get products."""
    untold, owners = set[str](), dict[str, str]()
    constant = constant_sources(model)
    for scale, other, bias in _biases(model):
        step = steps.get(scale.name or "")
        if step is None or (scale in constant.get(bias, ()) and step.stored.size == 1):
            continue  # else it follows by itself
        product = _product(step, other, bias)
        owner = owners.setdefault(bias.name or "", step.name)
        if product is None or owner != step.name or not all(is_dequantize(node) for node, _ in bias.uses()):
            untold |= {owner, step.name}
        else:
            step.products[bias.name or ""] = product
    return untold


def _product(step: StepSize, other: ir.Value | None, whole: ir.Value) -> npt.NDArray[np.float32] | None:
    """What a stored scale is a multiple of, if it is the step times another scale."""
    part = None if other is None else edit.constant_value(other)
    content = edit.constant_value(whole)
    if part is None or content is None or step.stored.size > 1 or part.size != content.size:
        return None
    part = np.array(part, np.float32).reshape(content.shape)
    return part if np.allclose(part * step.stored.reshape(-1)[0], content, _CLOSE, 0) else None


def _biases(model: ir.Model) -> Iterator[tuple[ir.Value, ir.Value | None, ir.Value]]:
    """The scales of a product's input, weight and bias; the bias is an input of it, or added to it."""
    for node in model.graph.all_nodes():
        spec = spec_of(node)
        role = None if spec is None else spec.quant
        if role is None or role.weight is None or not node.outputs:
            continue
        scale, weight = (_scale(node, index) for index in (role.indices(node)[0], role.weight))
        if scale is None:
            continue
        own = () if role.bias is None else ((node, role.bias),)
        behind = [(user, 1 - index) for user, index in node.outputs[0].uses() if is_sum(user)]
        for user, index in (*own, *behind):
            bias = _scale(user, index)
            if bias is not None and _is_whole(user.inputs[index]):
                yield scale, weight, bias


def _scale(node: ir.Node, index: int) -> ir.Value | None:
    """What an input was dequantized by."""
    value = node.inputs[index] if index < len(node.inputs) else None
    producer = None if value is None else value.producer()
    return producer.inputs[_SCALE] if producer is not None and is_dequantize(producer) else None


def _is_whole(value: ir.Value | None) -> bool:
    """Whether a value was dequantized from integers of 32 bits."""
    producer = None if value is None else value.producer()
    source = None if producer is None else producer.inputs[0]
    return source is not None and source.dtype == ir.DataType.INT32
