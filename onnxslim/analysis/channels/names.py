"""Axes of unknown size that the file itself names."""

from __future__ import annotations

from collections.abc import Mapping

from onnxslim._ir import ir
from onnxslim.analysis.facts import Known

__all__ = ["declared_names"]


def declared_names(model: ir.Model, facts: Known) -> Mapping[str, str]:
    """Names that the inference made up -> the name of an input's dimension that the file annotates.

    A size that comes out of a Slice or an Expand is anybody's to the inference, while the exporter knew that
    it is that of the inputs.  An annotation decides nothing but which axes of unknown size are the same, and
    only where all annotations of one axis say so: channels, whose sizes are known, do not hang on it.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[n] x, int64[1] e) => (float y) <int64[1] s = {0}, float[n] z>
        ...     { z = Slice(x, s, e)  y = ReduceSum(z) }'''))
        >>> list(declared_names(model, Known(model)).values())
        ['n']
    """
    inputs = model.graph.inputs
    known = {dim.value for value in inputs for dim in value.shape or () if isinstance(dim, ir.SymbolicDim)}
    found: dict[str, str | None] = {}
    for node in model.graph:
        for value in node.outputs:
            dims, noted = facts.shape(value), value.shape
            if dims is None or noted is None or len(dims) != len(noted):
                continue
            for dim, note in zip(dims, noted, strict=True):
                if isinstance(dim, str) and dim not in known and isinstance(note, ir.SymbolicDim):
                    name = note.value if note.value in known else None
                    found[dim] = name if found.get(dim, name) == name else None
    return {made_up: name for made_up, name in found.items() if name is not None}
