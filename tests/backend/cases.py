"""The test cases that the onnx package ships, each a model with one feed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import onnx.backend.test.loader
from onnx import numpy_helper

__all__ = ["Case", "all_cases", "with_constant_inputs"]


@dataclass(frozen=True)
class Case:
    """A model and one feed for it; both are read-only."""

    name: str
    model: onnx.ModelProto
    feed: dict[str, Any]


def all_cases() -> Iterator[Case]:
    """Every case of the kinds node, simple, pytorch and light that comes with the package."""
    with warnings.catch_warnings():  # computing expected outputs overflows on purpose
        warnings.simplefilter("ignore")
        node_cases = onnx.backend.test.loader.load_model_tests(kind="node")
    for case in node_cases:
        if case.model is not None and case.data_sets:
            names = [value.name for value in case.model.graph.input]
            yield Case(case.name, case.model, dict(zip(names, case.data_sets[0][0], strict=False)))
    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        for case in sorted(onnx.backend.test.loader.load_model_tests(kind=kind), key=lambda c: c.name):
            yield _from_folder(Path(case.model_dir or ""))
    for path in sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("*.onnx")):
        yield _light(path)


def _from_folder(folder: Path) -> Case:
    model = onnx.load(folder / "model.onnx")
    feed: dict[str, Any] = {}
    for index, info in enumerate(_free_inputs(model)):
        content = (folder / "test_data_set_0" / f"input_{index}.pb").read_bytes()
        if info.type.HasField("sequence_type"):
            feed[info.name] = numpy_helper.to_list(onnx.SequenceProto.FromString(content))
        elif info.type.HasField("optional_type"):
            feed[info.name] = numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
        else:
            feed[info.name] = numpy_helper.to_array(onnx.TensorProto.FromString(content))
    return Case(folder.name, model, feed)


def _light(path: Path) -> Case:
    """Well-known networks whose weights are computed from constants; the data is ours."""
    model = onnx.load(path)
    random = np.random.default_rng(0)
    feed = {
        info.name: random.random([d.dim_value for d in info.type.tensor_type.shape.dim], np.float32)
        for info in _free_inputs(model)
    }
    return Case(path.stem, model, feed)


def _free_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    given = {tensor.name for tensor in model.graph.initializer}
    return [info for info in model.graph.input if info.name not in given]


def with_constant_inputs(case: Case) -> Case | None:
    """The case with all inputs but the first turned into initializers; None where that changes nothing."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    feed = dict(case.feed)
    for info in list(model.graph.input)[1:]:
        content = feed.get(info.name)
        if not info.type.HasField("tensor_type") or not isinstance(content, np.ndarray | np.generic):
            continue
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(content), info.name))
        model.graph.input.remove(info)
        del feed[info.name]
    if len(feed) == len(case.feed):
        return None
    model.ir_version = max(model.ir_version, 4)  # before, initializers had to be inputs
    return Case(f"{case.name} (constant inputs)", model, feed)
