"""What a runtime on a kind of machine executes in integers, and at which cost.

A target is data: a TOML file beside this module, or one that ``onnxslim doctor --measure`` wrote.  Only a
target that was measured carries costs.  Costs are nanoseconds on one thread; what matters are their ratios.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from onnxslim.runtime.targets.work import Work

__all__ = ["CPU", "DEFAULT_TARGET", "Cost", "Fusion", "Target"]

DEFAULT_TARGET = "cpu-x86-vnni"
CPU = "CPUExecutionProvider"

Form = Literal["quantized", "float", "same"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds of one node: a constant, and so much per unit of :class:`Work`.

    Attributes:
        node: per call.
        mac: per multiply-accumulate in whole blocks of output channels.
        rest: per multiply-accumulate in the last block, which is not whole.
        tap: per kernel position and output position of a convolution (gathering the inputs).
        weight: per weight element (bringing it from memory).
        output: per output element.
    """

    node: float = 0.0
    mac: float = 0.0
    rest: float = 0.0
    tap: float = 0.0
    weight: float = 0.0
    output: float = 0.0

    def of(self, work: Work) -> float:
        """The time of a node with so much work.

        Example:
            >>> Cost(node=100, mac=0.5).of(Work(mac=64))
            132.0
        """
        return (
            self.node
            + self.mac * work.mac
            + self.rest * work.rest
            + self.tap * work.tap
            + self.weight * work.weight
            + self.output * work.output
        )


@dataclass(frozen=True, slots=True)
class Fusion:
    """An operator between DequantizeLinear and QuantizeLinear that becomes one integer kernel.

    Attributes:
        op_type: the operator.
        kernel: the operator that the runtime puts in its place.
        output: ``quantized``: only with a quantized output; ``float``: gives floats directly;
            ``same``: moves values, so its output has its input's scale.
        depthwise: for convolutions with one filter per channel, instead of those over all channels.
        blocked: in both forms it works in a layout of its own where it has four dimensions or more.
        activations: operators that are absorbed when they follow.
        biases: operators behind it whose constant operand, one per channel, becomes the bias.
        free_behind: operators that absorb its float form, which then costs nothing.
        attributes: what these attributes have to be, where the node has them.
        weight_rank: what the weight's rank has to be; None for any.
        float_cost, integer_cost: what the two forms cost.
        source: how this is known.
    """

    op_type: str
    kernel: str
    output: Form
    depthwise: bool = False
    blocked: bool = False
    activations: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    free_behind: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    weight_rank: int | None = None
    float_cost: Cost = Cost()
    integer_cost: Cost = Cost()
    source: str = ""

    @property
    def name(self) -> str:
        """The operator and, if it has several forms, which.

        Example:
            >>> Fusion("Conv", "QLinearConv", "quantized", depthwise=True).name
            'Conv, depthwise'
        """
        return f"{self.op_type}, depthwise" if self.depthwise else self.op_type


@dataclass(frozen=True, slots=True)
class Target:
    """A runtime on a kind of machine.

    Attributes:
        name: of the target, or the path of its file.
        runtime, machine: in words.
        provider: the execution provider of onnxruntime that it stands for.
        fusions: at most one per operator, or one for each of its forms.
        activation, weight: the integer types that the kernels take; signed activations are symmetric.
        activation_types: all that they take, where it is several.
        power_of_two_scales: scales have to be powers of two.
        integer_bias: biases are int32, else they stay floats.
        block: output channels that a kernel computes at once.
        quantize, dequantize: the cost of the conversions at the borders of integer islands.
        float_layout, integer_layout: of bringing a value into, or out of, the layout of blocked kernels.
        measured: whether there are costs.
        source: how the rules are known.
    """

    name: str
    runtime: str
    machine: str
    provider: str
    fusions: tuple[Fusion, ...]
    activation: Literal["uint8", "int8"] = "uint8"
    weight: Literal["int8"] = "int8"
    activation_types: tuple[str, ...] = ()
    power_of_two_scales: bool = False
    integer_bias: bool = True
    block: int = 1
    quantize: Cost = Cost()
    dequantize: Cost = Cost()
    float_layout: Cost = Cost()
    integer_layout: Cost = Cost()
    measured: bool = False
    source: str = ""

    @property
    def is_cpu(self) -> bool:
        """Whether the runtime can show here what it makes of a graph."""
        return self.provider == CPU

    def fusion(self, op_type: str, *, depthwise: bool = False) -> Fusion | None:
        """What becomes of an operator, None where nothing does; a depthwise convolution is one of its own."""
        return next((f for f in self.fusions if f.op_type == op_type and f.depthwise == depthwise), None)

    def is_blocked(self, op_type: str) -> bool:
        """Whether an operator works in a layout of its own."""
        return any(fusion.blocked for fusion in self.fusions if fusion.op_type == op_type)
