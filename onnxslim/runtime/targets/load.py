"""Read targets from TOML: those of the house by name, others by the path of their file."""

from __future__ import annotations

import difflib
import importlib.resources
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from onnxslim.errors import OptionError
from onnxslim.ops.registry import all_specs
from onnxslim.runtime.targets.target import DEFAULT_TARGET, Cost, Fusion, Target

__all__ = ["load_target", "parse_target", "target_names"]

_SUFFIX = ".toml"
_LARGEST = 1 << 20  # bytes; the house's own files have a few thousand
_COSTS = tuple(part.name for part in fields(Cost))


def target_names() -> tuple[str, ...]:
    """The targets that come with the package.

    Example:
        >>> "cpu-x86-vnni" in target_names()
        True
    """
    names = [entry.name for entry in importlib.resources.files(__package__).iterdir()]
    return tuple(sorted(n.removesuffix(_SUFFIX).replace("_", "-") for n in names if n.endswith(_SUFFIX)))


def load_target(name: str = DEFAULT_TARGET) -> Target:
    """The target of a name, or in a file.

    Args:
        name: one of :func:`target_names`, or a path that ends in ``.toml``.

    Raises:
        OptionError: there is no such target, or its file is wrong.

    Example:
        >>> load_target("cpu-x86-vnni").fusion("Conv").kernel
        'QLinearConv'
    """
    if name.endswith(_SUFFIX):
        return parse_target(_content(Path(name)), name)
    if name not in target_names():
        close = difflib.get_close_matches(name, target_names(), 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise OptionError(
            f"there is no target {name!r}",
            hint=f"{hint}there are: {', '.join(target_names())}; or the path of a .toml file",
        )
    return _own(name)


@cache
def _own(name: str) -> Target:
    file = importlib.resources.files(__package__) / f"{name.replace('-', '_')}{_SUFFIX}"
    return parse_target(file.read_text(encoding="utf-8"), name)


def _content(path: Path) -> str:
    try:
        if not path.is_file():
            raise OptionError("there is no such target file", where=str(path))
        if path.stat().st_size > _LARGEST:
            raise OptionError("the target file is too large to be one", where=str(path))
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"the target file cannot be read: {error}", where=str(path)) from error


def parse_target(text: str, name: str) -> Target:
    """The target in the text of a file.

    Args:
        name: of the target, for reports and errors.

    Raises:
        OptionError: it is not TOML, or a key is missing, unknown or wrong.
    """
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise OptionError(f"the target is not valid TOML: {error}", where=name) from error
    top = _Table(data, name)
    measured = "quantize" in data
    entries = top.take("fusion", _is_tables)
    fusions = tuple(_fusion(_Table(e, f"{name}, fusion {i}"), measured) for i, e in enumerate(entries, 1))
    names = [fusion.name for fusion in fusions]
    for twice in (n for n in names if names.count(n) > 1):
        raise OptionError(f"the target has two fusions for {twice}", where=name)

    def cost(key: str) -> Cost:
        return _cost(_Table(top.take(key, _is_table, default={}), f"{name}, {key}"))

    target = Target(
        name=name,
        runtime=top.take("runtime", _is_text),
        machine=top.take("machine", _is_text),
        provider=top.take("provider", _is_text),
        fusions=fusions,
        activation=top.take("activation", _one_of("uint8", "int8")),
        weight=top.take("weight", _one_of("int8")),
        activation_types=tuple(top.take("activation_types", _are_types, default=())),
        power_of_two_scales=top.take("power_of_two_scales", _is_flag, default=False),
        integer_bias=top.take("integer_bias", _is_flag, default=True),
        block=top.take("block", _is_size, default=1),
        quantize=cost("quantize"),
        dequantize=cost("dequantize"),
        float_layout=cost("float_layout"),
        integer_layout=cost("integer_layout"),
        measured=measured,
        source=top.take("source", _is_text, default=""),
    )
    top.finish()
    return target


def _fusion(entry: _Table, measured: bool) -> Fusion:
    op_type = entry.take("op", _is_text)
    spec = all_specs().get(("", op_type))
    if spec is None or spec.quant is None:
        raise OptionError(f"{op_type!r} is not an operator that can be quantized", where=entry.where)
    none: dict[str, Any] | None = (
        None if measured else {}
    )  # a measured target has costs everywhere, another one nowhere
    fusion = Fusion(
        op_type=op_type,
        kernel=entry.take("kernel", _is_text),
        output=entry.take("output", _one_of("quantized", "float", "same")),
        depthwise=entry.take("depthwise", _is_flag, default=False),
        blocked=entry.take("blocked", _is_flag, default=False),
        activations=tuple(entry.take("activations", _is_texts, default=())),
        biases=tuple(entry.take("biases", _is_texts, default=())),
        free_behind=tuple(entry.take("free_behind", _is_texts, default=())),
        attributes=MappingProxyType(entry.take("attributes", _is_table, default={})),
        weight_rank=entry.take("weight_rank", _is_size, default=0) or None,
        float_cost=_cost(_Table(entry.take("float_cost", _is_table, default=none), entry.where)),
        integer_cost=_cost(_Table(entry.take("integer_cost", _is_table, default=none), entry.where)),
        source=entry.take("source", _is_text, default=""),
    )
    entry.finish()
    return fusion


def _cost(table: _Table) -> Cost:
    cost = Cost(**{part: table.take(part, _is_cost, default=0.0) for part in _COSTS})
    table.finish()
    return cost


class _Table:
    """A table of the file whose keys are taken one by one, so that what nobody takes is an error."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self._left = dict(data)
        self._known: list[str] = []
        self.where = where

    def take(self, key: str, is_right: Callable[[Any], bool], *, default: Any = None) -> Any:
        """The value of ``key``, which has to be right; without a default it has to be there."""
        self._known.append(key)
        if key not in self._left:
            if default is None:
                raise OptionError(f"the target lacks {key!r}", where=self.where)
            return default
        value = self._left.pop(key)
        if not is_right(value):
            raise OptionError(
                f"{key!r} cannot be {value!r:.60}", where=self.where, hint=cast(str, is_right.__doc__)
            )
        return value

    def finish(self) -> None:
        """Refuse what is left over."""
        for key in self._left:
            close = difflib.get_close_matches(key, self._known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(self._known)}"
            raise OptionError(f"the target has an unknown key {key!r:.60}", where=self.where, hint=hint)


def _is_text(value: Any) -> bool:
    """a text, not empty"""
    return isinstance(value, str) and bool(value)


def _is_texts(value: Any) -> bool:
    """a list of texts"""
    return isinstance(value, list) and all(map(_is_text, value))


def _are_types(value: Any) -> bool:
    """a list of int8, uint8, int16, uint16 or float8e4m3fn"""
    return _is_texts(value) and {"int8", "uint8", "int16", "uint16", "float8e4m3fn"}.issuperset(value)


def _is_flag(value: Any) -> bool:
    """true or false"""
    return isinstance(value, bool)


def _is_size(value: Any) -> bool:
    """a whole number from 1 to 1024"""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1024


def _is_cost(value: Any) -> bool:
    """nanoseconds, a finite number from 0"""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_table(value: Any) -> bool:
    """a table"""
    return isinstance(value, dict)


def _is_tables(value: Any) -> bool:
    """a list of tables"""
    return isinstance(value, list) and all(map(_is_table, value))


def _one_of(*choices: str) -> Callable[[Any], bool]:
    def is_choice(value: Any) -> bool:
        return value in choices

    is_choice.__doc__ = f"one of: {', '.join(choices)}"
    return is_choice
