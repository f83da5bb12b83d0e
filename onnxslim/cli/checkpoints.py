"""The file beside the output of a long run that keeps what was done so far."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from onnxslim.errors import OptionError, ResourceError

__all__ = ["checkpoint_beside", "telling"]

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def telling(checkpoint: Path | None) -> Iterator[None]:
    """Say, when the work is interrupted or runs out of something, that it need not begin anew."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError, OSError, ResourceError):
        if checkpoint is not None and checkpoint.exists():
            _log.warning("%s holds what was done so far; --resume continues it", checkpoint)
        raise


def checkpoint_beside(output: str, what: str, *, force: bool, resume: bool) -> Path:
    """Where the state of an unfinished run lies; refuses to lose one that is there already.

    Args:
        what: is run, as errors call it.
    """
    path = Path(f"{output}.partial")
    if path.exists() and not resume:
        if not force:
            raise OptionError(
                f"an interrupted {what} lies here",
                where=str(path),
                hint="--resume continues it, --force starts anew",
            )
        from onnxslim.calibration.checkpoint import discard

        discard(path)
    return path
