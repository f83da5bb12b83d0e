"""The machine-readable form: one object per command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from onnxslim.report.report import Report, plain

__all__ = ["envelope", "to_json"]


def envelope(verb: str, body: Mapping[str, Any], exit_code: int = 0) -> str:
    """One JSON object: ``schema`` first, then the body, then ``exit_code``.

    Example:
        >>> envelope("doctor", {"worker": "ok"})
        '{"schema": "onnxslim.doctor/1", "worker": "ok", "exit_code": 0}'
    """
    document = {"schema": f"onnxslim.{verb}/1", **plain(body), "exit_code": exit_code}
    return json.dumps(document, allow_nan=False)


def to_json(report: Report, verb: str, exit_code: int = 0) -> str:
    """The report of one command as JSON (schema ``onnxslim.<verb>/1``)."""
    return envelope(verb, report.to_dict(), exit_code)
