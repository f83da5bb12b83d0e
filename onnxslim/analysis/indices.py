"""Which inputs of a model are indices, and of what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnxslim._ir import ir
from onnxslim.analysis.facts import Known, known_facts
from onnxslim.model.edit import scopes
from onnxslim.ops.registry import spec_of
from onnxslim.ops.spec import Dims

__all__ = ["index_limits"]


def index_limits(model: ir.Model) -> Mapping[str, tuple[int | str, ...]]:
    """Input name -> the sizes of the axes that its elements pick along, as numbers or names of dimensions.

    An element is followed through whatever only moves or casts it, into branches and bodies too.

    Example:
        >>> import onnx.parser
        >>> text = '''<ir_version: 8, opset_import: ["" : 17]> g (int32[n] ids) => (y)
        ...     <float[2,2] table = {0, 1, 2, 3}> { wide = Cast<to: int = 7>(ids) y = Gather(table, wide) }'''
        >>> index_limits(ir.from_proto(onnx.parser.parse_model(text)))
        {'ids': (2,)}
    """
    inputs = (value for value in model.graph.inputs if not value.is_initializer())
    origins = {value: frozenset((value.name or "",)) for value in inputs}
    facts = known_facts(model)
    found: dict[str, dict[int | str, None]] = {}

    def shape_of(value: ir.Value) -> Dims | None:
        return _shape(value, facts)

    for scope in scopes(model):
        for node in scope:
            reached = [
                origins.get(value, frozenset()) if value is not None else frozenset() for value in node.inputs
            ]
            spec = spec_of(node)
            if spec is None or not any(reached):
                continue
            if spec.indexes is not None:
                for index, size in spec.indexes(node, shape_of):
                    for name in reached[index]:
                        if size is not None:
                            found.setdefault(name, {})[size] = None
            passed: Iterable[int] = (0,) if spec.casts else spec.moved_inputs(node)
            moved = frozenset(name for index in passed for name in reached[index])
            if moved:
                origins.update(dict.fromkeys(node.outputs, moved))
    return {name: tuple(sizes) for name, sizes in found.items()}


def _shape(value: ir.Value, facts: Known) -> Dims | None:
    """That of a stored table is known without inferring any."""
    if value.const_value is not None and value.is_initializer() and not value.is_graph_input():
        return tuple(value.const_value.shape.numpy())
    return facts.shape(value)
