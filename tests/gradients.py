"""Gradients judged by central differences, which onnx's reference evaluator computes in double precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.utils
from onnx.reference import ReferenceEvaluator

from onnxslim._ir import ir
from onnxslim.distillation.gradient import Gradient, differentiate
from tests.models import run

__all__ = ["Case", "check", "double"]

Array = npt.NDArray[Any]
DIRECTIONS = 3
STEP = 1e-5


@dataclass
class Case:
    """One node: its inputs (None where absent), its attributes, and which outputs the loss reads.

    ``oracle`` computes the outputs where onnx's evaluator is wrong, or does so in single precision; with
    ``expanded`` the judge is what the node was expanded to, once that agrees with onnxruntime's kernel.
    """

    op_type: str
    inputs: Sequence[Array | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    wrt: Sequence[int] | None = None
    opset: int = 18
    outputs: int = 1
    reads: Sequence[int] = (0,)
    domain: str = ""
    constants: Sequence[int] = ()
    oracle: Callable[..., Any] | None = None
    expanded: bool = False

    def model(self) -> onnx.ModelProto:
        """The node, and the sum of its outputs times a random tensor each as ``loss``."""
        names = ["" if array is None else f"i{k}" for k, array in enumerate(self.inputs)]
        results = [f"o{k}" for k in range(self.outputs)]
        node = onnx.helper.make_node(self.op_type, names, results, domain=self.domain, **self.attributes)
        stored = [
            onnx.numpy_helper.from_array(array, f"i{k}")
            for k, array in enumerate(self.inputs)
            if array is not None and k in self.constants
        ]
        infos = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for k, (name, a) in enumerate(zip(names, self.inputs, strict=True))
            if a is not None and k not in self.constants
        ]
        nodes = [node]
        for k in self.reads:
            infos.append(onnx.helper.make_tensor_value_info(f"r{k}", onnx.TensorProto.FLOAT, None))
            nodes.append(onnx.helper.make_node("Mul", [f"o{k}", f"r{k}"], [f"p{k}"]))
            nodes.append(onnx.helper.make_node("ReduceSum", [f"p{k}"], [f"s{k}"], keepdims=0))
        nodes.append(onnx.helper.make_node("Sum", [f"s{k}" for k in self.reads], ["loss"]))
        loss = onnx.helper.make_tensor_value_info("loss", onnx.TensorProto.FLOAT, [])
        graph = onnx.helper.make_graph(nodes, "g", infos, [loss], stored)
        imports = [onnx.helper.make_opsetid("", self.opset)]
        if self.domain:
            imports.append(onnx.helper.make_opsetid(self.domain, 1))
        return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)

    def check(self, *, tolerance: float = 2e-3) -> Gradient:
        """Differentiate by all float inputs, or those of ``wrt``, and compare."""
        random = np.random.default_rng(0)
        feed = {
            f"i{k}": array
            for k, array in enumerate(self.inputs)
            if array is not None and k not in self.constants
        }
        proto = self.model()
        forward = onnx.ModelProto()
        forward.CopyFrom(proto)
        del forward.graph.output[:]
        forward.graph.output.extend(onnx.ValueInfoProto(name=f"o{k}") for k in self.reads)
        del forward.graph.node[1:]
        while len(forward.graph.input) and forward.graph.input[-1].name.startswith("r"):
            del forward.graph.input[-1]
        shapes = [output.shape for output in run(forward, feed)]
        for k, shape in zip(self.reads, shapes, strict=True):
            feed[f"r{k}"] = random.normal(size=shape).astype(np.float32)
            [info] = [i for i in proto.graph.input if i.name == f"r{k}"]
            info.CopyFrom(onnx.helper.make_tensor_value_info(f"r{k}", onnx.TensorProto.FLOAT, shape))
        wrt = [
            f"i{k}"
            for k, array in enumerate(self.inputs)
            if array is not None and (self.wrt is None or k in self.wrt) and array.dtype.kind == "f"
        ]
        judge = None if self.oracle is None else self._judge
        if self.expanded:
            judge = Judge(_forward(differentiate(ir.from_proto(proto), "loss", wrt), proto, feed))
        return check(proto, feed, wrt, judge=judge, tolerance=tolerance)

    def _judge(self, values: Mapping[str, Array]) -> float:
        assert self.oracle is not None
        inputs = [values[f"i{k}"] for k, array in enumerate(self.inputs) if array is not None]
        made = self.oracle(*(a.astype(np.float64) if a.dtype.kind == "f" else a for a in inputs))
        made = [made] if len(self.reads) == 1 else made
        return float(sum((y * values[f"r{k}"]).sum() for k, y in zip(self.reads, made, strict=True)))


def check(
    proto: onnx.ModelProto,
    feed: Mapping[str, Array],
    wrt: Sequence[str],
    *,
    judge: Callable[[Mapping[str, Array]], float] | None = None,
    tolerance: float = 2e-3,
) -> Gradient:
    """Compare the gradients of ``loss`` with central differences along random directions.

    The loss itself must be what the reference says, so that a wrong reference is noticed.
    """
    step = differentiate(ir.from_proto(proto), "loss", wrt)
    assert not step.frozen, step.frozen
    model = ir.to_proto(step.model)
    onnx.checker.check_model(model, full_check=True)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    whole = {**stored, **feed}
    inputs = {value.name: whole[value.name] for value in model.graph.input}
    names = [value.name for value in model.graph.output]
    found = dict(zip(names, run(model, inputs), strict=True))
    judge = judge or Judge(proto)
    reference = judge(whole)
    scale = 1 + sum(float(np.abs(a).sum()) for n, a in whole.items() if n.startswith("r"))
    assert abs(float(found["loss"]) - reference) <= 1e-4 * scale, (found["loss"], reference)
    random = np.random.default_rng(1)
    for name in wrt:
        gradient = found[step.gradients[name]].astype(np.float64)
        assert gradient.shape == whole[name].shape, (name, gradient.shape, whole[name].shape)
        size = float(np.linalg.norm(gradient))
        for _ in range(DIRECTIONS):
            direction = random.normal(size=gradient.shape)
            moved = [
                judge({**whole, name: whole[name].astype(np.float64) + sign * STEP * direction})
                for sign in (1, -1)
            ]
            expected = (moved[0] - moved[1]) / (2 * STEP)
            error = abs(expected - float((gradient * direction).sum()))
            assert error <= tolerance * (size + 1e-3), (name, expected, float((gradient * direction).sum()))
    return step


def _forward(step: Gradient, proto: onnx.ModelProto, feed: Mapping[str, Array]) -> onnx.ModelProto:
    """The loss as a step computes it, which has to be what the original gives."""
    forward = ir.to_proto(step.model)
    del forward.graph.output[1:]
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    inputs = {value.name: {**stored, **feed}[value.name] for value in forward.graph.input}
    [ours], [theirs] = run(forward, inputs, ["loss"]), run(proto, feed, ["loss"])
    assert abs(ours - theirs) <= 1e-4 * (1 + abs(theirs)), (ours, theirs)
    return onnx.utils.Extractor(forward).extract_model([v.name for v in forward.graph.input], ["loss"])


class Judge:
    """The loss of a model in double precision."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._names = [value.name for value in (*proto.graph.input, *proto.graph.initializer)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._evaluator = ReferenceEvaluator(double(proto))

    def __call__(self, values: Mapping[str, Array]) -> float:
        feed = {
            name: np.asarray(array, np.float64) if array.dtype.kind == "f" else array
            for name, array in values.items()
            if name in self._names
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(self._evaluator.run(["loss"], feed)[0])


def double(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every float in double precision, stored tensors as defaults of inputs."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    for tensor in wide.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for node in wide.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value_float":
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(np.array(attribute.f)))
                attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
            elif node.op_type == "Constant" and attribute.t.data_type == onnx.TensorProto.FLOAT:
                array = onnx.numpy_helper.to_array(attribute.t).astype(np.float64)
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(array))
            if node.op_type == "Cast" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.DOUBLE
    for info in wide.graph.input:
        if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            info.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    known = {info.name for info in wide.graph.input}
    for tensor in wide.graph.initializer:
        if tensor.name not in known:
            wide.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return wide
