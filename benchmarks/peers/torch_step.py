"""A training step of torch on the graph of an ONNX file: its time, beside which ours is put.

    PYTHON -m benchmarks.peers.torch_step MODEL FEED

PYTHON has torch and onnx.  MODEL ends in a scalar ``loss``, FEED (.npz) holds its inputs.  Every stored float
of more than one element gets a gradient.  Prints the CPU milliseconds of the fastest step, with one thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import torch
from torch.nn import functional

Attributes = Mapping[str, Any]
SECONDS = 10.0


def conv(inputs: Sequence[Any], a: Attributes) -> Any:
    """With padding that may differ in front and behind."""
    x, weight, *bias = inputs
    rank = x.ndim - 2
    pads = a.get("pads", [0] * (2 * rank))
    begins, ends = pads[:rank], pads[rank:]
    if begins != ends:
        flat = [pad for axis in reversed(range(rank)) for pad in (begins[axis], ends[axis])]
        x, begins = functional.pad(x, flat), [0] * rank
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    strides, dilations = a.get("strides", 1), a.get("dilations", 1)
    return function(x, weight, *(bias or [None]), strides, begins, dilations, a.get("group", 1))


def gemm(inputs: Sequence[Any], a: Attributes) -> Any:
    """``alpha A' B' + beta C``."""
    left = inputs[0].T if a.get("transA") else inputs[0]
    right = inputs[1].T if a.get("transB") else inputs[1]
    found = a.get("alpha", 1.0) * (left @ right) if a.get("alpha", 1.0) != 1 else left @ right
    return found + a.get("beta", 1.0) * inputs[2] if len(inputs) > 2 else found


def pool(inputs: Sequence[Any], a: Attributes) -> Any:
    """MaxPool of equal padding on both sides."""
    return functional.max_pool2d(inputs[0], a["kernel_shape"], a.get("strides"), a.get("pads", [0, 0])[:2])


def clip(inputs: Sequence[Any], a: Attributes) -> Any:
    """Bounds may be absent."""
    bounds = [None if bound is None else bound.item() for bound in inputs[1:]]
    return torch.clamp(inputs[0], *bounds)


def mean(inputs: Sequence[Any], a: Attributes) -> Any:
    """Over all axes unless some are given."""
    axes = inputs[1].tolist() if len(inputs) > 1 else a.get("axes", list(range(inputs[0].ndim)))
    return inputs[0].mean(axes, keepdim=bool(a.get("keepdims", 1)))


def norm(inputs: Sequence[Any], a: Attributes) -> Any:
    """Over the last axis."""
    return functional.layer_norm(inputs[0], inputs[1].shape, *inputs[1:], eps=a.get("epsilon", 1e-5))


def cut(inputs: Sequence[Any], a: Attributes) -> Any:
    """With positive steps."""
    x, starts, ends, axes, *steps = inputs
    kept = [slice(None)] * x.ndim
    by = steps[0].tolist() if steps else [1] * len(starts)
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), axes.tolist(), by, strict=True):
        kept[axis] = slice(start, end, step)
    return x[tuple(kept)]


FUNCTIONS: dict[str, Callable[[Sequence[Any], Attributes], Any]] = {
    "Add": lambda i, a: i[0] + i[1],
    "Clip": clip,
    "Concat": lambda i, a: torch.cat(list(i), a["axis"]),
    "Conv": conv,
    "Div": lambda i, a: i[0] / i[1],
    "Erf": lambda i, a: torch.erf(i[0]),
    "Expand": lambda i, a: i[0] * torch.ones(i[1].tolist()),
    "Flatten": lambda i, a: i[0].flatten(1),
    "Gather": lambda i, a: i[0].select(a.get("axis", 0), i[1].item()),
    "Gelu": lambda i, a: functional.gelu(i[0], approximate=a.get("approximate", b"none").decode()),
    "Gemm": gemm,
    "GlobalAveragePool": lambda i, a: i[0].mean((2, 3), keepdim=True),
    "HardSigmoid": lambda i, a: (i[0] * a.get("alpha", 0.2) + a.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda i, a: functional.hardswish(i[0]),
    "Identity": lambda i, a: i[0],
    "LayerNormalization": norm,
    "MatMul": lambda i, a: i[0] @ i[1],
    "MaxPool": pool,
    "Mul": lambda i, a: i[0] * i[1],
    "PRelu": lambda i, a: torch.where(i[0] >= 0, i[0], i[0] * i[1]),
    "ReduceMean": mean,
    "Relu": lambda i, a: torch.relu(i[0]),
    "Reshape": lambda i, a: i[0].reshape([d or i[0].shape[k] for k, d in enumerate(i[1].tolist())]),
    "Sigmoid": lambda i, a: torch.sigmoid(i[0]),
    "Slice": cut,
    "Softmax": lambda i, a: torch.softmax(i[0], a.get("axis", -1)),
    "Split": lambda i, a: torch.split(i[0], i[1].tolist(), a.get("axis", 0)),
    "Squeeze": lambda i, a: i[0].squeeze(tuple(i[1].tolist())),
    "Sub": lambda i, a: i[0] - i[1],
    "Tanh": lambda i, a: torch.tanh(i[0]),
    "Transpose": lambda i, a: i[0].permute(a["perm"]),
    "Unsqueeze": lambda i, a: i[0].unsqueeze(i[1].item()),
}


def loss(model: onnx.ModelProto, values: Mapping[str, Any]) -> Any:
    """The graph, node by node."""
    known: dict[str, Any] = {"": None, **values}
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            known[node.output[0]] = torch.tensor(onnx.numpy_helper.to_array(node.attribute[0].t))
            continue
        made = FUNCTIONS[node.op_type]([known[name] for name in node.input], attributes)
        known.update(zip(node.output, made if isinstance(made, (tuple, list)) else [made], strict=True))
    return known["loss"]


def main(model_path: str, feed_path: str) -> None:
    """The command line."""
    torch.set_num_threads(1)
    model = onnx.load(model_path)
    feed = {name: torch.tensor(array) for name, array in np.load(feed_path).items()}
    weights = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in model.graph.initializer}
    trained = [w.requires_grad_() for w in weights.values() if w.is_floating_point() and w.numel() > 1]
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - start < SECONDS and len(times) < 50):
        before = time.process_time()
        value = loss(model, {**feed, **weights})
        torch.autograd.grad(value, trained, allow_unused=True)
        times.append(time.process_time() - before)
    print(1e3 * min(times))


if __name__ == "__main__":
    main(*sys.argv[1:])
