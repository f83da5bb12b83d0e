"""Every pass by name: ours and those that other packages register.

A third party adds a pass through the entry point group ``onnxslim.passes``; the entry point's value is the
pass class, its name does not matter.  Two passes of one name are an error: which of them runs must never
depend on the order of installation.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import importlib.metadata
import pkgutil
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import onnxslim.passes
from onnxslim.errors import OptionError
from onnxslim.passes.base import Pass

__all__ = ["all_passes", "make_pass"]

_GROUP = "onnxslim.passes"
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@functools.cache
def all_passes() -> Mapping[str, type[Pass]]:
    """Every registered pass, name -> class, sorted by name.

    Raises:
        OptionError: two passes bear the same name, or an entry point names something that is not a pass.

    Example:
        >>> "remove-dead-code" in all_passes()
        True
    """
    found: dict[str, type[Pass]] = {}
    for where, cls in [*_own(), *_third_party()]:
        other = found.setdefault(cls.name, cls)
        if other is not cls:
            raise OptionError(
                f"two passes bear the name {cls.name!r}",
                where=f"{other.__module__}.{other.__qualname__} and {where}",
                hint="uninstall one of the two packages",
            )
    return types.MappingProxyType(dict(sorted(found.items())))


def make_pass(name: str, options: Mapping[str, object] = types.MappingProxyType({})) -> Pass:
    """Build the pass ``name``; option values given as text are read by the type of their field.

    Raises:
        OptionError: no such pass or option (with the nearest name), or a value of the wrong kind.

    Example:
        >>> make_pass("remove-dead-code").name
        'remove-dead-code'
    """
    passes = all_passes()
    if name not in passes:
        raise OptionError(f"there is no pass named {name!r}", hint=_nearest(name, passes))
    cls = passes[name]
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in options.items():
        option = key.replace("-", "_")
        if option not in fields:
            raise OptionError(
                f"the pass {name} has no option {key!r}",
                where=f"{name}.{key}",
                hint=_nearest(option, fields) if fields else "it has no options",
            )
        values[option] = _coerce(value, hints[option], f"{name}.{key}")
    return cls(**values)


def _own() -> Iterator[tuple[str, type[Pass]]]:
    for info in pkgutil.iter_modules(onnxslim.passes.__path__):
        module = importlib.import_module(f"{onnxslim.passes.__name__}.{info.name}")
        for value in vars(module).values():
            if _is_named_pass(value) and value.__module__ == module.__name__:
                yield module.__name__, value


def _third_party() -> Iterator[tuple[str, type[Pass]]]:
    for entry in importlib.metadata.entry_points(group=_GROUP):
        value = entry.load()
        if not _is_named_pass(value):
            raise OptionError(
                f"the entry point {entry.name!r} of the group {_GROUP} is not a pass with a name",
                where=entry.value,
                hint="it must name a subclass of onnxslim.passes.base.Pass",
            )
        yield entry.value, value


def _is_named_pass(value: object) -> TypeGuard[type[Pass]]:
    """A base that several passes share has no name, and is not one."""
    return isinstance(value, type) and issubclass(value, Pass) and bool(value.name)


def _nearest(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"one of: {', '.join(known)}"


def _coerce(value: object, kind: Any, where: str) -> object:
    """``value`` as the field type ``kind`` (bool, int, float, str, names, X | None, Literal; else as it is)."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        members = [m for m in typing.get_args(kind) if m is not types.NoneType]
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        if len(members) == 1:
            return _coerce(value, members[0], where)
        return value
    if origin is typing.Literal:
        choices = typing.get_args(kind)
        for choice in choices:
            if value == choice or (isinstance(value, str) and value == str(choice)):
                return choice
        raise _bad(value, "one of " + ", ".join(map(str, choices)), where)
    if kind == tuple[str, ...]:
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise _bad(value, "a list of names", where)
        return tuple(names)
    if kind is bool:
        text = str(value).lower()
        if isinstance(value, bool | str | int) and text in _TRUE | _FALSE:
            return text in _TRUE
        raise _bad(value, "true or false", where)
    if kind in (int, float):
        try:
            if isinstance(value, bool) or (kind is int and isinstance(value, float) and value != int(value)):
                raise ValueError
            return kind(value)
        except (TypeError, ValueError, OverflowError):
            raise _bad(value, "a whole number" if kind is int else "a number", where) from None
    if kind is str and not isinstance(value, str):
        raise _bad(value, "text", where)
    return value


def _bad(value: object, wanted: str, where: str) -> OptionError:
    return OptionError(f"{value!r} is not {wanted}", where=where)
