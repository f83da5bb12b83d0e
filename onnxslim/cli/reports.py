"""``--report FILE``: the suffix says which form the report takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from onnxslim.cli.files import check_target, write_text
from onnxslim.errors import OptionError

if TYPE_CHECKING:
    from onnxslim.report.report import Report

__all__ = ["check_report", "write_report"]


def check_report(path: str, models: Iterable[str | None], *, force: bool) -> None:
    """Refuse, before any work is done, a report that cannot be written; ``models`` are read or written too.

    Raises:
        OptionError: the suffix names no form, the file is one of the models, exists and ``force`` is not set,
            or has no folder.
    """
    if Path(path).suffix not in _WRITERS:
        *rest, last = _WRITERS
        raise OptionError(
            f"reports end in {', '.join(rest)} or {last}", where=path, hint="--report FILE.html"
        )
    if any(model and model != "-" and Path(model).resolve() == Path(path).resolve() for model in models):
        raise OptionError("the report and the model are the same file", where=path)
    check_target(path, (), force=force)


def write_report(path: str, verb: str, report: Report, exit_code: int = 0) -> None:
    """Write the report of one command in the form that the suffix of ``path`` names."""
    write_text(Path(path), _WRITERS[Path(path).suffix](verb, report, exit_code))


def _html(verb: str, report: Report, exit_code: int) -> str:
    from onnxslim.report.html import to_html

    return to_html(report, f"onnxslim {verb}")


def _markdown(verb: str, report: Report, exit_code: int) -> str:
    from onnxslim.report.markdown import to_markdown

    return to_markdown(report, f"onnxslim {verb}")


def _json(verb: str, report: Report, exit_code: int) -> str:
    from onnxslim.report.to_json import to_json

    return to_json(report, verb, exit_code) + "\n"


_WRITERS: dict[str, Callable[[str, Report, int], str]] = {".html": _html, ".md": _markdown, ".json": _json}
