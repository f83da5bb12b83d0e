"""Write a target as the TOML that :func:`onnxslim.runtime.targets.load.load_target` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from onnxslim.runtime.targets.target import Cost, Fusion, Target

__all__ = ["terms", "to_toml"]

_DIGITS = 3  # more would pretend that costs are constants
_FLAGS = ("depthwise", "blocked")
_LISTS = ("activations", "biases", "free_behind")
_CONVERSIONS = ("quantize", "dequantize", "float_layout", "integer_layout")


def to_toml(target: Target, comment: str = "") -> str:
    """The text of a target's file.

    Args:
        comment: lines to put in front.

    Example:
        >>> print(to_toml(Target("mine", "onnxruntime", "here", "CPUExecutionProvider", ())).split("\\n")[0])
        runtime = "onnxruntime"
    """
    return "\n".join([*(f"# {line}".rstrip() for line in comment.splitlines()), *_lines(target), ""])


def _lines(target: Target) -> Iterator[str]:
    if target.source:
        yield f"source = {_value(target.source)}"
    for key in ("runtime", "machine", "provider", "activation", "weight", "integer_bias", "block"):
        yield f"{key} = {_value(getattr(target, key))}"
    if target.activation_types:
        yield f"activation_types = {_value(target.activation_types)}"
    if target.power_of_two_scales:
        yield "power_of_two_scales = true"
    if not target.fusions:
        yield "fusion = []"
    for key in _CONVERSIONS if target.measured else ():
        yield f"\n[{key}]"
        yield from (f"{part} = {_value(cost)}" for part, cost in terms(getattr(target, key)).items())
    for fusion in target.fusions:
        yield "\n[[fusion]]"
        yield from _fusion(fusion, target.measured)


def _fusion(fusion: Fusion, measured: bool) -> Iterator[str]:
    yield f"op = {_value(fusion.op_type)}"
    yield from (f"{key} = true" for key in _FLAGS if getattr(fusion, key))
    yield f"kernel = {_value(fusion.kernel)}"
    yield f"output = {_value(fusion.output)}"
    yield from (f"{key} = {_value(getattr(fusion, key))}" for key in _LISTS if getattr(fusion, key))
    if fusion.attributes:
        yield f"attributes = {_value(fusion.attributes)}"
    if fusion.weight_rank is not None:
        yield f"weight_rank = {fusion.weight_rank}"
    if measured:
        yield f"float_cost = {_value(terms(fusion.float_cost))}"
        yield f"integer_cost = {_value(terms(fusion.integer_cost))}"
    if fusion.source:
        yield f"source = {_value(fusion.source)}"


def terms(cost: Cost) -> dict[str, float]:
    """The terms that are not 0, rounded as they are written.

    Example:
        >>> terms(Cost(node=1234.5, mac=0.00789))
        {'node': 1230.0, 'mac': 0.00789}
    """
    every = {part.name: float(f"{getattr(cost, part.name):.{_DIGITS}g}") for part in fields(cost)}
    return {name: amount for name, amount in every.items() if amount}


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value)  # TOML's basic strings are JSON's
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(int(value)) if float(value).is_integer() else f"{value:g}"
