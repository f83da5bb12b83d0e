"""What a runtime on a kind of machine executes in integers, and at which cost: data, read from TOML.

A target is a file beside this module.  Only a target that was measured carries costs.  Costs are nanoseconds
on one thread; what matters are their ratios.
"""

from __future__ import annotations

import importlib.resources
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from onnxslim.errors import OptionError

__all__ = ["DEFAULT_TARGET", "Cost", "Fusion", "Target", "load_target", "target_names"]

DEFAULT_TARGET = "cpu-x86-vnni"

Form = Literal["quantized", "float", "same"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds of one node: a constant, and so much per unit of work.

    Attributes:
        node: per call.
        mac: per multiply-accumulate.
        tap: per kernel position and output position of a convolution (gathering the inputs).
        weight: per weight element that has to come from memory; bounds small products from below.
        output: per output element.
    """

    node: float = 0.0
    mac: float = 0.0
    tap: float = 0.0
    weight: float = 0.0
    output: float = 0.0

    def of(self, *, macs: float = 0, taps: float = 0, weights: float = 0, outputs: float = 0) -> float:
        """The time of a node with so much work.

        Example:
            >>> Cost(mac=0.5, weight=2.0).of(macs=100, weights=10)
            50.0
        """
        work = max(self.mac * macs, self.weight * weights)
        return self.node + work + self.tap * taps + self.output * outputs


@dataclass(frozen=True, slots=True)
class Fusion:
    """An operator between DequantizeLinear and QuantizeLinear that becomes one integer kernel.

    Attributes:
        op_type: the operator.
        kernel: the operator that the runtime puts in its place.
        output: ``quantized``: only with a quantized output; ``float``: gives floats directly;
            ``same``: moves values, so its output has its input's scale.
        activations: operators that are absorbed when they follow.
        biases: operators behind it whose constant operand, one per channel, becomes the bias.
        attributes: what these attributes have to be, where the node has them.
        weight_rank: what the weight's rank has to be; None for any.
        float_cost, integer_cost: what the two forms cost.
        alone_cost: of the integer form where its input comes from a float kernel (another layout).
        source: how this is known.
    """

    op_type: str
    kernel: str
    output: Form
    activations: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    weight_rank: int | None = None
    float_cost: Cost = Cost()
    integer_cost: Cost = Cost()
    alone_cost: Cost = Cost()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A runtime on a kind of machine.

    Attributes:
        activation, weight: the integer types that the kernels take.
        quantize, dequantize: the cost of the conversions at the borders of integer islands.
        fusions: by operator.
    """

    name: str
    runtime: str
    machine: str
    activation: str
    weight: str
    quantize: Cost
    dequantize: Cost
    fusions: Mapping[str, Fusion]


def target_names() -> tuple[str, ...]:
    """The targets that there are.

    Example:
        >>> "cpu-x86-vnni" in target_names()
        True
    """
    folder = importlib.resources.files(__package__)
    files = [entry.name for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return tuple(sorted(name.removesuffix(".toml").replace("_", "-") for name in files))


@cache
def load_target(name: str = DEFAULT_TARGET) -> Target:
    """The target ``name``.

    Raises:
        OptionError: there is no such target.

    Example:
        >>> load_target("cpu-x86-vnni").fusions["Conv"].kernel
        'QLinearConv'
    """
    if name not in target_names():
        raise OptionError(f"there is no target {name!r}", hint="one of: " + ", ".join(target_names()))
    file = importlib.resources.files(__package__) / f"{name.replace('-', '_')}.toml"
    data = tomllib.loads(file.read_text(encoding="utf-8"))
    fusions = {entry["op"]: _fusion(entry) for entry in data["fusion"]}
    return Target(
        name,
        data["runtime"],
        data["machine"],
        data["activation"],
        data["weight"],
        Cost(**data["quantize"]),
        Cost(**data["dequantize"]),
        MappingProxyType(fusions),
    )


def _fusion(entry: dict[str, Any]) -> Fusion:
    return Fusion(
        entry["op"],
        entry["kernel"],
        entry["output"],
        tuple(entry.get("activations", ())),
        tuple(entry.get("biases", ())),
        MappingProxyType(entry.get("attributes", {})),
        entry.get("weight_rank"),
        Cost(**entry["float_cost"]),
        Cost(**entry["integer_cost"]),
        Cost(**entry.get("alone_cost", entry["integer_cost"])),
        entry.get("source", ""),
    )
