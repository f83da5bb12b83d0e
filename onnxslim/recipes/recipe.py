"""Recipes as TOML: a list of passes with their options.

[[pass]]
name = "simplify"             # a named recipe stands for all of its passes

[[pass]]
name = "fold-constants"
max_bytes = 4096              # options are keys
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxslim._ir import ir
from onnxslim.errors import OptionError
from onnxslim.passes.base import Pass
from onnxslim.passes.registry import all_passes, make_pass
from onnxslim.recipes.engine import Deferred, Repeat, Step
from onnxslim.recipes.named import NAMED_RECIPES

__all__ = [
    "PassSpec",
    "apply_overrides",
    "load_recipe",
    "needs_calibration",
    "parse_recipe",
    "pass_names",
    "steps_of",
]

_MAX_RECIPE_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class PassSpec:
    """One entry of a recipe: a pass or a named recipe, and its options."""

    name: str
    options: Mapping[str, Any]


def load_recipe(path: str | os.PathLike[str]) -> tuple[PassSpec, ...]:
    """Read a recipe file.

    Raises:
        OptionError: the file is missing, no TOML, or names what does not exist.
    """
    file = Path(path)
    if not file.is_file():
        raise OptionError("the recipe does not exist or is no file", where=str(path))
    if file.stat().st_size > _MAX_RECIPE_BYTES:
        raise OptionError("the recipe is larger than 1 MB; is this a recipe?", where=str(path))
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"the recipe cannot be read: {error}", where=str(path)) from error
    return parse_recipe(text, where=str(path))


def parse_recipe(text: str, *, where: str = "recipe") -> tuple[PassSpec, ...]:
    """Read a recipe from its text.

    Example:
        >>> parse_recipe('[[pass]]\\nname = "remove-dead-code"')
        (PassSpec(name='remove-dead-code', options={}),)
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise OptionError(f"the recipe is not valid TOML: {error}", where=where) from error
    entries = document.pop("pass", None)
    document.pop("name", None)
    document.pop("description", None)
    if document:
        raise OptionError(
            f"unknown key {next(iter(document))!r} in the recipe",
            where=where,
            hint="a recipe has `name`, `description` and [[pass]] tables",
        )
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
        raise OptionError(
            "the recipe lists no passes", where=where, hint='start with [[pass]] and name = "simplify"'
        )
    specs = []
    for number, entry in enumerate(entries, 1):
        name = entry.pop("name", None)
        if not isinstance(name, str):
            raise OptionError(f"[[pass]] number {number} has no name", where=where)
        _check_name(name, entry, f"{where}, [[pass]] number {number}")
        specs.append(PassSpec(name, entry))
    return tuple(specs)


def _check_name(name: str, options: Mapping[str, Any], where: str) -> None:
    known = [*all_passes(), *NAMED_RECIPES]
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        raise OptionError(
            f"there is no pass {name!r}",
            where=where,
            hint=f"did you mean {near[0]}?" if near else "the passes are: " + ", ".join(sorted(known)),
        )
    if name in NAMED_RECIPES and options:
        raise OptionError(
            f"{name} is a recipe and takes no options",
            where=where,
            hint="name the pass that takes the option",
        )


def needs_calibration(specs: Sequence[PassSpec]) -> bool:
    """Whether a pass of the recipe is built from calibration data."""
    return any(spec.name in all_passes() and _takes_calibration(all_passes()[spec.name]) for spec in specs)


def _takes_calibration(pass_type: type[Pass]) -> bool:
    return any(f.name == "calibration" for f in dataclasses.fields(pass_type))


def steps_of(
    specs: Sequence[PassSpec], calibrate: Callable[[ir.Model], object] | None = None
) -> tuple[Step, ...]:
    """Build the steps of a pipeline.

    Args:
        specs: the recipe.
        calibrate: called with the model as it is when a pass that needs calibration has its turn.

    Raises:
        OptionError: bad option, or a pass needs data and ``calibrate`` is None.
    """
    steps: list[Step] = []
    for spec in specs:
        if spec.name in NAMED_RECIPES:
            steps += NAMED_RECIPES[spec.name]()
        elif _takes_calibration(all_passes()[spec.name]):
            if calibrate is None:
                raise OptionError(f"{spec.name} needs calibration data", hint="give --data")
            steps.append(Deferred(spec.name, _builder(spec, calibrate)))
        else:
            steps.append(make_pass(spec.name, spec.options))
    return tuple(steps)


def _builder(spec: PassSpec, calibrate: Callable[[ir.Model], object]) -> Callable[[ir.Model], Pass]:
    return lambda model: make_pass(spec.name, {**spec.options, "calibration": calibrate(model)})


def pass_names(steps: Sequence[Step]) -> set[str]:
    """The names of all passes of some steps."""
    return {p.name for step in steps for p in (step.passes if isinstance(step, Repeat) else (step,))}


def apply_overrides(steps: Sequence[Step], overrides: Mapping[str, Mapping[str, Any]]) -> tuple[Step, ...]:
    """Set options of passes by name, as ``--set name.option=value`` does.

    Raises:
        OptionError: a name that no step has, or an option that the pass does not take.
    """
    names = pass_names(steps)
    for name in overrides:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else "this command runs: " + ", ".join(sorted(names))
            raise OptionError(f"no pass {name!r} runs here", where="--set", hint=hint)

    def changed(p: Pass) -> Pass:
        if p.name not in overrides:
            return p
        current = {f.name: getattr(p, f.name) for f in dataclasses.fields(p)}
        return make_pass(p.name, {**current, **overrides[p.name]})

    result: list[Step] = []
    for step in steps:
        if isinstance(step, Repeat):
            result.append(dataclasses.replace(step, passes=tuple(changed(p) for p in step.passes)))
        elif isinstance(step, Deferred):
            build, options = step.build, overrides.get(step.name, {})
            result.append(
                Deferred(step.name, lambda model, b=build, o=options: _override(b(model), o))  # type: ignore[misc]
            )
        else:
            result.append(changed(step))
    return tuple(result)


def _override(p: Pass, options: Mapping[str, Any]) -> Pass:
    current = {f.name: getattr(p, f.name) for f in dataclasses.fields(p)}
    return make_pass(p.name, {**current, **options})
