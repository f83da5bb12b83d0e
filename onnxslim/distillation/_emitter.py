"""Where new nodes of a step go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from onnxslim._ir import ir
from onnxslim.distillation._facts import Refined
from onnxslim.model import edit
from onnxslim.ops.spec import Array, Dims

__all__ = ["Emitter"]


@dataclass
class Emitter:
    """The :class:`onnxslim.ops.terms.Emitter` of a model, or of a graph inside of it.

    Attributes:
        graph: takes the nodes.
        before: the node in front of which new ones go; None for the end of the graph.
        originals: for values of a copied graph, those that the facts know.
    """

    model: ir.Model
    facts: Refined
    graph: ir.Graph
    before: ir.Node | None = None
    stored: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = field(default_factory=dict)
    originals: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def emit(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any],
        outputs: int = 1,
        domain: str = "",
    ) -> Sequence[ir.Value]:
        """Add a node; its outputs."""
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=outputs, name="")
        if domain:
            self.model.opset_imports.setdefault(domain, 1)
        for output in node.outputs:
            output.name = self.name()
        if self.before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self.before, node)
        return node.outputs

    def store(self, array: Array) -> ir.Value:
        """A constant of the main graph, which all graphs see; equal ones are stored once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.stored:
            self.stored[key] = edit.add_initializer(self.model.graph, array, "constant")
        return self.stored[key]

    def name(self) -> str:
        """A name that no value bears."""
        return edit.unique_name(self.model, "adjoint")

    def copied(self, body: ir.Graph) -> Emitter:
        """For a copy of a graph, whose values get names of their own; what is known of the original holds."""
        copy = body.clone(allow_outer_scope_values=True)
        inner = Emitter(self.model, self.facts, copy, stored=self.stored, originals=dict(self.originals))
        inner._adopt(body, copy)
        return inner

    def _adopt(self, body: ir.Graph, copy: ir.Graph) -> None:
        pairs = list(zip(body.initializers.values(), copy.initializers.values(), strict=True))
        pairs += zip(body.inputs, copy.inputs, strict=True)
        for own, other in zip(body, copy, strict=True):
            pairs += zip(own.outputs, other.outputs, strict=True)
            for inner, inner_copy in zip(edit.subgraphs(own), edit.subgraphs(other), strict=True):
                self._adopt(inner, inner_copy)
        for original, value in pairs:
            self.originals[value] = self.originals.get(original, original)
            if value.name:
                value.name = self.name()

    def shape(self, value: ir.Value) -> Dims | None:
        """Dimensions of a value that was there before."""
        return self.facts.shape(self.originals.get(value, value))

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """Element type of a value that was there before."""
        return self.facts.dtype(self.originals.get(value, value))

    def constant(self, value: ir.Value) -> Array | None:
        """Content of a value that is the same in every run."""
        return self.facts.constant(self.originals.get(value, value))
