"""The group of verbs; each lives in the file of its name and is imported when it is needed."""

from __future__ import annotations

import difflib
import importlib
import os

import click

from onnxslim import __version__

__all__ = ["VERBS", "app"]

# The one-line helps stand here, so that --help imports no verb.
VERBS = {
    "simplify": "Fewer nodes, equal outputs.",
    "share": "Every weight stored once, equal outputs.",
    "quantize": "8-bit integers where they pay, floats where they do not.",
    "prune": "Fewer channels, heads or weights, with what was lost made good.",
    "distill": "The compressed model learns from the original, without labels.",
    "compress": "Smaller and faster inside an accuracy budget, measured here.",
    "calibrate": "Measure the ranges of activations and keep them.",
    "bench": "Measure one model, or two against each other.",
    "compare": "Compare the outputs of two models.",
    "inspect": "Show what a model is made of.",
    "run": "Run the passes that a recipe lists.",
    "doctor": "Check this machine and this installation.",
}


class _Verbs(click.Group):
    """Imports a verb on demand; without a verb, ``onnxslim IN.onnx OUT.onnx`` is simplify."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"onnxslim.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {flag for parameter in self.get_params(ctx) for flag in parameter.opts}
        first = args[0] if args else "--help"
        implied = _is_model(first) or (
            first.startswith("-") and first not in own and any(map(_is_model, args))
        )
        if implied and first not in VERBS:
            args = ["simplify", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        verb = args[0]
        if verb not in VERBS:
            near = difflib.get_close_matches(verb, VERBS, 1, cutoff=0.5)
            raise click.UsageError(
                f"there is no command {verb!r}"
                + (f"; did you mean {near[0]!r}?" if near else f"; the commands are: {', '.join(VERBS)}"),
                ctx,
            )
        ctx.obj.verb = verb
        return super().resolve_command(ctx, args)


def _is_model(argument: str) -> bool:
    return argument == "-" or argument.endswith(".onnx") or os.path.isfile(argument)  # noqa: PTH113 (fast)


def _version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"onnxslim-passes {__version__}")
        ctx.exit()


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="onnxslim IN.onnx OUT.onnx is short for onnxslim simplify IN.onnx -o OUT.onnx. "
    "Exit codes: 0 done; 1 a bug of ours; 2 bad usage, bad input or a limit reached; 3 outputs differ; "
    "4 a budget or target is not met; 5 an optional package is missing; 130 interrupted.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Show the version and exit.",
)
def app() -> None:
    """Make an exported ONNX model smaller and faster, and prove that the result is right."""
