"""The command line: one file per verb, nothing heavy imported before a verb runs."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; ``argv`` without the program's name, default ``sys.argv[1:]``.  Returns the exit code.

    Example:
        >>> main(["--version"])  # doctest: +ELLIPSIS
        onnxslim-passes ...
        0
    """
    from onnxslim.cli.exits import run

    return run(argv)
