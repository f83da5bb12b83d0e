"""Operators on strings."""

from __future__ import annotations

from onnxslim.ops.spec import OpSpec

__all__ = ["SPECS"]

SPECS = tuple(
    OpSpec(op_type=name)
    for name in ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer")
)
