"""Options that several verbs share, and the reading of their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = [
    "budget",
    "common",
    "data",
    "distilling",
    "overrides",
    "parse_assignments",
    "parse_counts",
    "parse_dim_sweep",
    "parse_dims",
    "parse_input_shapes",
    "parse_providers",
    "parse_size",
    "providers",
    "report",
    "rewriting",
    "scoring",
    "shapes",
    "split_rewrite",
    "sweep",
    "threads",
    "verification",
    "weights",
]

F = TypeVar("F", bound=Callable[..., Any])


def _stack(*options: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


def parse_input_shapes(
    ctx: click.Context | None, parameter: click.Parameter | None, values: tuple[str, ...]
) -> dict[str, tuple[int, ...]]:
    """Read ``name:1,3,224,224``; the name may hold colons itself.

    Example:
        >>> parse_input_shapes(None, None, ("input:0:1,3,8,8",))
        {'input:0': (1, 3, 8, 8)}
    """
    result = {}
    for text in values:
        name, _, sizes = text.rpartition(":")
        try:
            shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
        except ValueError:
            shape = (0,)
        if not name or any(size < 1 for size in shape):
            raise click.BadParameter(f"{text!r} is not of the form name:1,3,224,224", ctx, parameter)
        result[name] = shape
    return result


def parse_dims(
    ctx: click.Context | None, parameter: click.Parameter | None, values: tuple[str, ...]
) -> dict[str, int]:
    """Read ``batch=1``.

    Example:
        >>> parse_dims(None, None, ("batch=1",))
        {'batch': 1}
    """
    result = {}
    for text in values:
        name, _, size = text.rpartition("=")
        if not name or not size.isascii() or not size.isdigit() or int(size) < 1:
            raise click.BadParameter(f"{text!r} is not of the form batch=1", ctx, parameter)
        result[name] = int(size)
    return result


def parse_counts(ctx: click.Context | None, parameter: click.Parameter | None, value: str) -> tuple[int, ...]:
    """Read ``1,2,4``.

    Example:
        >>> parse_counts(None, None, "1, 2")
        (1, 2)
    """
    texts = [text.strip() for text in value.split(",")] if value.strip() else []
    if all(text.isascii() and text.isdigit() and int(text) > 0 for text in texts):
        return tuple(map(int, texts))
    raise click.BadParameter(f"{value!r} is not of the form 1,2,4", ctx, parameter)


def parse_dim_sweep(
    ctx: click.Context | None, parameter: click.Parameter | None, values: tuple[str, ...]
) -> dict[str, tuple[int, ...]]:
    """Read ``batch=1,8,32``.

    Example:
        >>> parse_dim_sweep(None, None, ("batch=1,8",))
        {'batch': (1, 8)}
    """
    result = {}
    for text in values:
        name, _, sizes = text.rpartition("=")
        try:
            result[name] = parse_counts(ctx, parameter, sizes)
        except click.BadParameter:
            result[name] = ()
        if not name or not result[name]:
            raise click.BadParameter(f"{text!r} is not of the form batch=1,8,32", ctx, parameter)
    return result


def parse_assignments(
    ctx: click.Context | None, parameter: click.Parameter | None, values: tuple[str, ...]
) -> dict[str, dict[str, str]]:
    """Read ``pass.option=value``.

    Example:
        >>> parse_assignments(None, None, ("fold-constants.max_bytes=64",))
        {'fold-constants': {'max_bytes': '64'}}
    """
    result: dict[str, dict[str, str]] = {}
    for text in values:
        target, equals, value = text.partition("=")
        name, dot, option = target.partition(".")
        if not (equals and dot and name and option):
            raise click.BadParameter(f"{text!r} is not of the form pass.option=value", ctx, parameter)
        result.setdefault(name, {})[option.replace("-", "_")] = value
    return result


def parse_providers(
    ctx: click.Context | None, parameter: click.Parameter | None, value: str
) -> tuple[str, ...]:
    """Read a comma-separated list.

    Example:
        >>> parse_providers(None, None, "cuda, cpu")
        ('cuda', 'cpu')
    """
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names:
        raise click.BadParameter("names no provider", ctx, parameter)
    return names


def parse_size(ctx: click.Context | None, parameter: click.Parameter | None, value: str | None) -> int | None:
    """Read ``500MB``; None where the option is not given.

    Example:
        >>> parse_size(None, None, "500MB")
        500000000
    """
    if value is None:
        return None
    from onnxslim.errors import OptionError
    from onnxslim.recipes.budget import parse_size_target

    try:
        size = parse_size_target(value)
    except OptionError:  # it speaks of another option
        size = None
    if size is None or size.kind != "absolute":
        raise click.BadParameter(f"{value!r} is not of the form 500MB", ctx, parameter)
    return int(size.value)


def common(function: F) -> F:
    """``--json``, ``-v`` and ``-q``: every verb has them."""
    return _stack(
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables."),
        click.option("-v", "--verbose", count=True, help="Say more on stderr; twice for everything."),
        click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
    )(function)


report = click.option("--report", metavar="FILE", help="Also write the report: FILE.html, .md or .json.")


def rewriting(function: F) -> F:
    """Options of verbs that write a model."""
    return _stack(
        click.option("-o", "--output", metavar="OUT", help="Where to write the model; - is stdout."),
        click.option("--force", is_flag=True, help="Overwrite existing files."),
        click.option("--dry-run", is_flag=True, help="Do everything, write nothing."),
        click.option(
            "--external-data",
            is_flag=True,
            help="Keep the weights in a file of their own (past 2 GB always; past 512 MB if they came so).",
        ),
        report,
    )(function)


def shapes(function: F) -> F:
    """Options that fix the shapes of inputs."""
    return _stack(
        click.option(
            "--input-shape",
            "input_shapes",
            multiple=True,
            callback=parse_input_shapes,
            metavar="NAME:1,3,224,224",
            help="Fix the shape of an input; may be repeated.",
        ),
        click.option(
            "--dim",
            "dims",
            multiple=True,
            callback=parse_dims,
            metavar="NAME=1",
            help="Fix a symbolic dimension wherever it occurs; may be repeated.",
        ),
    )(function)


def _several_threads(help: str) -> Callable[[F], F]:
    return click.option(
        "--threads", callback=parse_counts, default="1", show_default=True, metavar="1,2", help=help
    )


def sweep(function: F) -> F:
    """Settings of a measurement; several values of one measure each in turn."""
    return _stack(
        _several_threads("Of each session; several make a sweep."),
        click.option(
            "--dim",
            "dims",
            multiple=True,
            callback=parse_dim_sweep,
            metavar="batch=1,8",
            help="Size of a symbolic dimension of random inputs; several make a sweep; may be repeated.",
        ),
        click.option(
            "--input-shape",
            "input_shapes",
            multiple=True,
            callback=parse_input_shapes,
            metavar="NAME:1,3,224,224",
            help="Shape of a random input; may be repeated.",
        ),
    )(function)


_REWRITE = frozenset({"output", "force", "dry_run", "external_data", "report", "as_json", "verbose", "quiet"})


def split_rewrite(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the options that :class:`onnxslim.cli.rewrite.Rewrite` takes from those of the verb itself."""
    return (
        {name: value for name, value in given.items() if name in _REWRITE},
        {name: value for name, value in given.items() if name not in _REWRITE},
    )


def budget(function: F) -> F:
    """How much accuracy may be lost, by which measure."""
    return _stack(
        click.option(
            "--max-drop",
            default="1%",
            show_default=True,
            metavar="D",
            help="What may be lost of the metric: 0.01 absolute, 1% relative.",
        ),
        click.option(
            "--min-sqnr",
            type=click.FloatRange(min=0),
            default=0.0,
            metavar="DB",
            help="Signal over noise that every output must keep, in decibels; 10 in any case.",
        ),
        scoring,
        click.option(
            "--time", default="10min", show_default=True, metavar="T", help="Try nothing new after this long."
        ),
        click.option(
            "--target",
            metavar="T",
            help="What to quantize for: cpu-x86-vnni (the default), cpu-arm, cuda, ..., or a .toml file that "
            "`onnxslim doctor --measure` wrote.",
        ),
        _several_threads("When measuring time; the result must not be slower with any of several."),
    )(function)


def scoring(function: F) -> F:
    """What a model is scored by."""
    return _stack(
        click.option(
            "--metric",
            metavar="M",
            help="top1 (needs __labels__), agreement (the default), module:function or path.py:function that "
            "takes a model's path; higher is better.",
        ),
        click.option(
            "--metric-output", metavar="NAME", help="The output that the metric reads; default the first."
        ),
    )(function)


def threads(function: F) -> F:
    """How time is measured."""
    count, help = click.IntRange(min=1), "When measuring time."
    return click.option("--threads", type=count, default=1, show_default=True, help=help)(function)


def weights(function: F) -> F:
    """``--weights``."""
    return click.option(
        "--weights",
        metavar="int8|int4|int2|binary[:N]",
        default="int8",
        show_default=True,
        help="The fewest bits that weights may be stored in; those that need more have more. "
        "binary: sums of 1 to N signs times scales.",
    )(function)


def overrides(function: F) -> F:
    """``--set``."""
    return click.option(
        "--set",
        "set_options",
        multiple=True,
        callback=parse_assignments,
        metavar="PASS.OPTION=VALUE",
        help="Set an option of a pass; may be repeated.",
    )(function)


def distilling(what: str = "Let the result learn from MODEL") -> Callable[[F], F]:
    """``--distill``."""
    return click.option(
        "--distill",
        is_flag=False,
        flag_value="5min",
        metavar="[TIME]",
        help=f"{what} for so long, 5min unless said otherwise; needs --data.",
    )


def verification(function: F) -> F:
    """``--no-verify`` and ``--verify-limit``."""
    return _stack(
        click.option("--no-verify", is_flag=True, help="Do not compare the outputs with the original's."),
        click.option(
            "--verify-limit",
            metavar="SIZE",
            callback=parse_size,
            default="1GB",
            show_default=True,
            help="Larger models are not verified as a whole.",
        ),
    )(function)


def providers(function: F) -> F:
    """``--providers``."""
    return click.option(
        "--providers",
        default="cpu",
        show_default=True,
        callback=parse_providers,
        metavar="LIST",
        help="Execution providers of onnxruntime, in order of preference: cpu, cuda, ...",
    )(function)


def data(*, required: bool = False, what: str = "The feeds") -> Callable[[F], F]:
    """``--data``, ``--samples`` and ``--seed``."""
    return _stack(
        click.option(
            "--data",
            metavar="D",
            required=required,
            help=f"{what}: an .npz file, a folder of .npz files or of images, module:function, "
            "path.py:function, or random.",
        ),
        click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Use N of the feeds."),
        click.option(
            "--batch",
            type=click.IntRange(min=1),
            metavar="N",
            help="Rows of an .npz file per feed, default 1.",
        ),
        click.option("--images", metavar="SPEC", help="How images become inputs: size=224,mean=...,std=..."),
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random."
        ),
    )
