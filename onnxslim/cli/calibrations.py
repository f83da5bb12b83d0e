"""What a calibration holds, for ``onnxslim inspect CAL.npz``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxslim.calibration.store import Calibration
    from onnxslim.report.text import Table

__all__ = ["is_archive", "shown"]

_MANY = 5
_ROWS = 20
_ARCHIVE = b"PK"  # what an .npz file begins with, and no model


def is_archive(name: str) -> bool:
    """Whether the file is an archive, as calibrations are and models are not."""
    path = Path(name)
    if name == "-" or not path.is_file():
        return path.suffix == ".npz"
    with path.open("rb") as file:
        return file.read(len(_ARCHIVE)) == _ARCHIVE


def shown(name: str, verbose: int) -> tuple[list[Table], list[str], dict[str, Any]]:
    """Tables, lines and the JSON of a stored calibration."""
    from onnxslim.calibration.store import Calibration

    calibration = Calibration.load(name)
    facts = {"input": name, **calibration.summary(), **_observed(calibration)}
    return list(_ranges(calibration, verbose)), list(_remarks(calibration)), facts


def _observed(calibration: Calibration) -> dict[str, Any]:
    tensors = {
        name: {
            "minmax": calibration.range(name),
            "percentile": calibration.range(name, "percentile"),
            "values": state.histogram.total,
            "channels": None if state.moments is None else len(state.moments.mean),
            "second_moments": state.products is not None,
        }
        for name, state in calibration.states.items()
    }
    return {"ranges": tensors, "skipped": dict(calibration.skipped), "notes": list(calibration.notes)}


def _ranges(calibration: Calibration, verbose: int) -> Iterator[Table]:
    from onnxslim.report.text import Table, number

    facts = tuple((name.replace("_", " "), number(value)) for name, value in calibration.summary().items())
    yield Table("Calibration", ("", ""), facts, "ll")
    rows = []
    for name in calibration.states:
        (low, high), (inner, outer) = calibration.range(name), calibration.range(name, "percentile")
        stretch = (high - low) / (outer - inner) if outer > inner else 1.0
        rows.append((stretch, (name, f"{low:.4g}", f"{high:.4g}", f"{inner:.4g}", f"{outer:.4g}")))
    title = "Tensors"
    if not verbose and len(rows) > _ROWS:
        rows = sorted(rows, key=lambda row: -row[0])[:_ROWS]
        title = f"The {_ROWS} tensors that rare values stretch most"
    yield Table(title, ("", "min", "max", "99.99 % from", "to"), tuple(row for _, row in rows))


def _remarks(calibration: Calibration) -> Iterator[str]:
    if calibration.is_random:
        yield "made on random values"
    yield from calibration.notes
    names = list(calibration.skipped)
    for name in names[:_MANY]:
        yield f"not observed: {name}, {calibration.skipped[name]}"
    if len(names) > _MANY:
        yield f"and {len(names) - _MANY} others"
