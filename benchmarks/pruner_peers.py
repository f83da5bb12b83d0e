"""Which channels other pruners would remove: run by the python of the pruner, knows nothing of this project.

    python -I pruner_peers.py METHOD MODEL RATIOS TARGET [WEIGHT...]

TARGET gets a JSON array of objects, one for each of the RATIOS (of channels to remove, separated by commas):
name of a weight -> the output channels that go.  The output channels of each WEIGHT are those of the model,
so they have to stay.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from onnx import numpy_helper

Removed = dict[str, list[int]]
MULTIPLE = 8  # channels that stay, as by our default
CONVERTED = 17  # the newest operators that onnx2torch knows throughout


def older(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same as onnx2torch knows it: older operators, no flag for zeros in shapes that have none."""
    model = onnx.version_converter.convert_version(model, CONVERTED)
    shapes = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Reshape" and shapes.get(node.input[1], np.zeros(1)).all():
            del node.attribute[:]
    return model


def torch_pruning(path: str, ratio: float, stay: Collection[str], *, everywhere: bool = False) -> Removed:
    """Torch-Pruning: the norms of all weights that go together, on the modules that onnx2torch makes.

    Args:
        everywhere: channels of all layers are ranked together, instead of the same share in each.
    """
    import onnx2torch
    import torch
    import torch_pruning

    model = older(onnx.load(path))
    names = {numpy_helper.to_array(each).tobytes(): each.name for each in model.graph.initializer}
    network = onnx2torch.convert(model).eval()
    weights: dict[Any, str] = {}
    for module in network.modules():
        weight = getattr(module, "weight", None)
        found = None if weight is None else names.get(weight.detach().numpy().tobytes())
        if found is not None:
            weights[module] = found
    given = model.graph.input[0].type.tensor_type.shape.dim
    pruner = torch_pruning.pruner.BasePruner(
        network,
        torch.zeros([dim.dim_value or 1 for dim in given]),
        torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        global_pruning=everywhere,
        ignored_layers=[module for module, name in weights.items() if name in stay],
        round_to=MULTIPLE,
    )
    removed: Removed = {}
    for group in pruner.step(interactive=True):
        for dependency, indices in group:
            module = dependency.target.module
            if module in weights and "out_channels" in dependency.handler.__name__:
                removed.setdefault(weights[module], []).extend(map(int, indices))
    return removed


def torch_pruning_global(path: str, ratio: float, stay: Collection[str]) -> Removed:
    """The same with all channels ranked together."""
    return torch_pruning(path, ratio, stay, everywhere=True)


def onnxsim(path: str, ratio: float, stay: Collection[str]) -> Removed:
    """onnxsim's structured pruning by norms, which works on ONNX files."""
    import onnxsim

    model = onnx.load(path)
    before = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    after = onnxsim.apply_structured_pruning(model, sparsity=ratio)
    convolutions = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    removed: Removed = {}
    for each in after.graph.initializer:
        old, new = before.get(each.name), numpy_helper.to_array(each)
        if old is None or old.ndim < 2 or old.shape[0] == new.shape[0] or each.name not in convolutions:
            continue
        # rows of few inputs hold numbers of the row that they were alone: floats of weights are distinct
        kept = [next(i for i, row in enumerate(old) if np.isin(mine, row).all()) for mine in new]
        removed[each.name] = sorted(set(range(len(old))) - set(kept))
    return removed


METHODS: dict[str, Callable[[str, float, Collection[str]], Removed]] = {
    "Torch-Pruning": torch_pruning,
    "Torch-Pruning, global": torch_pruning_global,
    "onnxsim": onnxsim,
}

if __name__ == "__main__":
    method, model, ratios, target, *stay = sys.argv[1:]
    found = [METHODS[method](model, float(ratio), stay) for ratio in ratios.split(",")]
    Path(target).write_text(json.dumps(found), encoding="utf-8")
