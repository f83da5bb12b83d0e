"""One small graph in two forms: in floats, and with QuantizeLinear / DequantizeLinear around every node."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxslim.runtime.targets.target import Fusion
from onnxslim.runtime.targets.work import Work

__all__ = ["Sketch"]

Array = npt.NDArray[Any]

_OPSET = 17
_SCALE = np.float32(0.05)  # any would do, as long as nothing overflows
_WEIGHT_SCALE = np.float32(0.0008)
_BIAS = 10_000


class Sketch:
    """A graph that is being drawn; the integer form of a value has the name of the float one with a suffix.

    Attributes:
        float_work, integer_work: ``(name of a fusion, what a node does)``, in order.
        kernels: what the integer form has to run, and how often.
        shapes: of the values, and ``inputs`` those that are fed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.float_work: list[tuple[str, Work]] = []
        self.integer_work: list[tuple[str, Work]] = []
        self.kernels: Counter[str] = Counter()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.inputs: list[str] = []
        self._seed = seed
        self._nodes: dict[str, list[onnx.NodeProto]] = {"float": [], "integer": []}
        self._constants: dict[str, dict[str, Array]] = {
            "float": {},
            "integer": {
                "scale": np.array(_SCALE),
                "u0": np.array(np.uint8(0)),
                "u128": np.array(np.uint8(128)),
            },
        }
        self._weights: dict[str, tuple[int, ...]] = {}
        self._zeros: dict[str, str] = {}
        self._restored: dict[str, str] = {}
        self._read: set[str] = set()

    def input(self, *shape: int) -> str:
        """A float input of the graph, quantized in the integer form."""
        name = f"x{len(self.inputs)}"
        self.shapes[name] = shape
        self.inputs.append(name)
        self._convert(name, "u128")
        return name

    def node(
        self,
        fusion: Fusion,
        sources: Sequence[str],
        shape: Sequence[int],
        work: Work | None = None,
        *,
        weight: Sequence[int] | None = None,
        channel_axis: int = 0,
        bias: bool = False,
        constants: Sequence[Array] = (),
        attributes: Mapping[str, Any] | None = None,
        activation: str | None = None,
        free: bool = False,
    ) -> str:
        """Add a node; returns its output.

        Args:
            shape: of the output.
            work: default one of its elements.
            weight: the shape of a constant second input, int8 with a scale for each of ``channel_axis``.
            bias: add a constant third input.
            constants: further inputs that are not quantized, such as a shape.
            activation: an operator behind it, which its kernel absorbs.
            free: its float form is absorbed by the node in front.
        """
        name = f"v{sum(self.kernels.values())}"
        self.shapes[name] = tuple(shape)
        work = work or Work(output=math.prod(shape))
        if not free:
            self.float_work.append((fusion.name, work))
        self.integer_work.append((fusion.name, work))
        self.kernels[fusion.kernel] += 1
        self._read.update(sources)
        inputs = {"float": list(sources), "integer": [self._restored[source] for source in sources]}
        if weight is not None:
            self._add_weight(inputs, f"{name}_w", tuple(weight), channel_axis)
            if bias:
                self._add_bias(inputs, f"{name}_b", weight[channel_axis])
        for number, array in enumerate(constants):
            for form in inputs:
                self._constants[form][f"{name}_c{number}"] = array
                inputs[form].append(f"{name}_c{number}")
        raw = f"{name}_raw" if activation else name
        for form, read in inputs.items():
            nodes = [helper.make_node(fusion.op_type, read, [raw], name=f"n_{name}", **(attributes or {}))]
            if activation:
                nodes.append(helper.make_node(activation, [raw], [name], name=f"a_{name}"))
            self._nodes[form] += nodes
        if fusion.output == "float":
            self._restored[name] = name
        elif fusion.output == "same":
            self._convert(name, self._zeros[sources[0]])
        else:
            self._convert(name, "u0" if activation else "u128")
        return name

    @property
    def outputs(self) -> list[str]:
        """What no node reads."""
        return [name for name in self.shapes if name not in self._read]

    @property
    def converted(self) -> tuple[list[str], list[str]]:
        """What the integer form quantizes, and what it dequantizes, if everything in between fuses."""
        quantized = list(self.inputs)
        dequantized = [name for name in self.outputs if self._restored[name] != name]
        return quantized, dequantized

    def float_model(self) -> bytes:
        """The float form."""
        return self._model("float", self.outputs)

    def integer_model(self) -> bytes:
        """The form with conversions around every node."""
        return self._model("integer", [self._restored[name] for name in self.outputs])

    def feed(self) -> dict[str, Array]:
        """Random inputs."""
        rng = np.random.default_rng(self._seed)
        return {name: rng.normal(size=self.shapes[name]).astype(np.float32) for name in self.inputs}

    def _model(self, form: str, outputs: Sequence[str]) -> bytes:
        ends = [*zip(self.inputs, self.inputs, strict=True), *zip(outputs, self.outputs, strict=True)]
        infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, self.shapes[of]) for n, of in ends]
        arrays = {**self._constants[form], **self._drawn_weights(form)}
        constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
        graph = helper.make_graph(
            self._nodes[form], "sketch", infos[: len(self.inputs)], infos[len(self.inputs) :], constants
        )
        opset = helper.make_opsetid("", _OPSET)
        return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())

    def _drawn_weights(self, form: str) -> dict[str, Array]:
        """The weights, which are not drawn before they are needed: most sketches are thrown away."""
        rng = np.random.default_rng(self._seed)
        drawn = {name: rng.integers(-127, 128, shape, np.int8) for name, shape in self._weights.items()}
        if form == "integer":
            return {f"{name}_integers": integers for name, integers in drawn.items()}
        return {name: integers * _WEIGHT_SCALE for name, integers in drawn.items()}

    def _convert(self, name: str, zero: str) -> None:
        self._zeros[name], self._restored[name] = zero, f"{name}_restored"
        self._nodes["integer"] += [
            helper.make_node("QuantizeLinear", [name, "scale", zero], [f"{name}_quantized"]),
            helper.make_node("DequantizeLinear", [f"{name}_quantized", "scale", zero], [f"{name}_restored"]),
        ]

    def _add_weight(self, inputs: dict[str, list[str]], name: str, shape: tuple[int, ...], axis: int) -> None:
        self._weights[name] = shape
        inputs["float"].append(name)
        scale = np.full(shape[axis], _WEIGHT_SCALE)
        self._constants["integer"][f"{name}_zeros"] = np.zeros(len(scale), np.int8)
        inputs["integer"].append(self._dequantize(name, scale, axis % len(shape), f"{name}_zeros"))

    def _add_bias(self, inputs: dict[str, list[str]], name: str, channels: int) -> None:
        scale = _SCALE * _WEIGHT_SCALE  # the runtime fuses a bias only in this very scale
        integers = np.full(channels, _BIAS, np.int32)
        self._constants["float"][name] = (integers * scale).astype(np.float32)
        inputs["float"].append(name)
        self._constants["integer"][f"{name}_integers"] = integers
        inputs["integer"].append(self._dequantize(name, np.full(channels, scale), 0))

    def _dequantize(self, name: str, scale: Array, axis: int, *zeros: str) -> str:
        self._constants["integer"][f"{name}_scale"] = scale
        inputs = [f"{name}_integers", f"{name}_scale", *zeros]
        node = helper.make_node("DequantizeLinear", inputs, [f"{name}_restored"], axis=axis)
        self._nodes["integer"].append(node)
        return f"{name}_restored"
