"""What every registered pass promises, on graphs that try to break it."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import onnx
import pytest

from onnxslim._ir import ir
from onnxslim.passes.base import Pass, Promise
from onnxslim.passes.registry import all_passes
from tests.contract.graphs import GRAPHS, OddGraph
from tests.models import bit_equal, proto, run

PASSES = [
    cls
    for cls in all_passes().values()
    if all(
        f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
        for f in dataclasses.fields(cls)
    )
]


def build(graph: OddGraph) -> onnx.ModelProto:
    """The graph with metadata on everything that can carry some."""
    made = proto(graph.text, opset=graph.opset, ir_version=graph.ir_version)
    made.producer_name, made.doc_string = "somebody", "what it is"
    made.metadata_props.add(key="author", value="me")
    made.graph.doc_string = "the graph"
    if graph.ir_version >= 10:
        made.graph.metadata_props.add(key="of", value="graph")
        for node in made.graph.node:
            node.metadata_props.add(key="of", value=node.output[0])
    return made


def feed_for(graph: OddGraph, model: onnx.ModelProto) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    feed = dict(graph.feed)
    for info in model.graph.input:
        if info.name not in feed:
            dims = [d.dim_value for d in info.type.tensor_type.shape.dim]
            feed[info.name] = random.normal(size=dims).astype(np.float32)
    return feed


def close(a: np.ndarray, b: np.ndarray) -> bool:
    if bit_equal(a, b):
        return True
    largest = np.abs(a[np.isfinite(a)]).max(initial=0)
    return np.allclose(a, b, rtol=0, atol=1e-4 * largest + 1e-6, equal_nan=True)


def signature(model: onnx.ModelProto) -> tuple[bytes, ...]:
    return tuple(info.SerializeToString() for info in (*model.graph.input, *model.graph.output))


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
@pytest.mark.parametrize("cls", PASSES, ids=lambda cls: cls.name)
def test_contract(cls: type[Pass], graph: OddGraph) -> None:
    original = build(graph)
    onnx.checker.check_model(original)
    source = ir.from_proto(original)
    before = ir.to_proto(source).SerializeToString()
    model = source.clone()

    result = cls()(model)
    assert result.model is model, "in place"
    after = ir.to_proto(model)
    assert ir.to_proto(source).SerializeToString() == before, "the caller's object is untouched"
    if not result.modified:
        assert after.SerializeToString() == before, "says that it changed nothing"
    else:
        assert after.SerializeToString() != before, "says that it changed something"

    onnx.checker.check_model(after, full_check=True)
    assert signature(after) == signature(original), "inputs and outputs as they were"
    assert [p.SerializeToString() for p in after.metadata_props] == [
        p.SerializeToString() for p in original.metadata_props
    ]
    assert after.graph.metadata_props == original.graph.metadata_props
    tags = {node.metadata_props[0].value for node in original.graph.node if node.metadata_props}
    kept = {p.value for node in after.graph.node for p in node.metadata_props}
    assert kept <= tags and (kept or not tags or not after.graph.node or result.modified)
    assert after.producer_name == original.producer_name and after.doc_string == original.doc_string

    if cls.promise is not Promise.LOSSY:
        feed = feed_for(graph, original)
        same = bit_equal if cls.promise is Promise.EXACT else close
        for a, b in zip(run(original, feed), run(after, feed), strict=True):
            assert same(a, b)
    assert not cls()(model).modified, "a second time there is nothing to do"


@pytest.mark.parametrize("cls", PASSES, ids=lambda cls: cls.name)
def test_is_declared_well(cls: type[Pass]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", cls.name)
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen
    assert cls() == cls()
    assert cls.__doc__ and cls.__doc__[0].isupper()


def test_most_graphs_are_changed_by_some_pass() -> None:
    unchanged = {
        name
        for name, graph in GRAPHS.items()
        if not any(cls()(ir.from_proto(build(graph))).modified for cls in PASSES)
    }
    assert len(unchanged) <= len(GRAPHS) // 3, unchanged
