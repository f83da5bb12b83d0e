"""Compute once what is the same in every run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis import folding
from onnxslim.analysis.facts import forget_facts, known_facts
from onnxslim.analysis.partial import PartialValues
from onnxslim.model import edit
from onnxslim.ops.branches import taken_branch
from onnxslim.ops.registry import is_constant, spec_of
from onnxslim.ops.spec import Declined, OpSpec
from onnxslim.passes.base import Pass
from onnxslim.runtime.evaluate import EvaluationError, evaluate

__all__ = ["FoldConstants"]

Array = npt.NDArray[Any]

_SHORT = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_KEPT_LONGER = "onnxruntime may keep its result longer than the 16 bits that it would be stored with"
_AT_ONCE = 1 << 16  # bytes: results this small are computed while looking, since shapes depend on them


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace deterministic nodes whose results are the same in every run by those results.

    1. Nodes that read only constants; in graphs also Constant nodes, which become initializers.
    2. Integers computed from shapes, as far as the dimensions in question are known, whatever the others are.

    Exact NumPy evaluators serve where an operator has one; the rest runs in one onnxruntime session, in the
    worker, with optimizations off.  Results are sized first and stored only where the file does not grow:
    what becomes superfluous has to pay for them.  Branches that are never taken are not looked into, and the
    defaults of inputs are not constants, since callers may override them.

    Declined: results that would grow the file, that are too large to compute, whose size is unknown
    beforehand, or whose evaluation fails.

    Example:
        >>> import onnx.parser
        >>> model = ir.from_proto(onnx.parser.parse_model('''
        ...     <ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[2] x) => (float[2] y) <float[2] a = {1, 2}> { b = Add(a, a)  y = Mul(x, b) }'''))
        >>> FoldConstants()(model).modified, [node.op_type for node in model.graph]
        (True, ['Mul'])
    """

    name: ClassVar[str] = "fold-constants"

    max_bytes: int = field(
        default=1 << 26, metadata={"help": "largest tensor computed on the way to a result, in bytes"}
    )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        roots: list[edit.Scope] = [model.graph, *model.functions.values()]
        for root in roots:
            failed: dict[ir.Node, str] = {}
            while True:
                finder = _Finder(model, self.max_bytes, failed)
                finder.visit(root)
                plan = folding.plan(list(finder.scope_of), finder.sizes)
                try:
                    contents = finder.contents(plan, root.opset_imports or model.opset_imports)
                except EvaluationError as error:
                    failed[error.node] = f"it cannot be computed: {error.reason}"
                    continue
                if not plan.removed:
                    break
                _apply(plan, contents, finder.scope_of)
                modified = True
                forget_facts(model)  # shapes may be known better now
            for node, excess in plan.declined.items():
                finder.declined[node] = f"its result would make the file {excess:,} bytes larger"
            for node, reason in (finder.declined | failed).items():
                self.decline(node.name or node.op_type, reason)
        return ir.passes.PassResult(model, modified)


def _apply(
    plan: folding.FoldPlan, contents: Mapping[ir.Value, Array], scope_of: Mapping[ir.Node, edit.Scope]
) -> None:
    for value in plan.stored:
        producer = value.producer()
        assert producer is not None
        edit.store_constant(scope_of[producer], value, contents[value])
    for node in plan.removed:
        inputs = [value for value in node.inputs if value is not None]
        edit.remove_node(node)
        for value in inputs:
            unread = not (value.uses() or value.is_graph_output() or value.is_graph_input())
            if unread and value.is_initializer() and value.graph is not None and value.name is not None:
                value.graph.initializers.pop(value.name, None)


class _Finder:
    """Finds the constant nodes of one root scope, the sizes of their results, and small results."""

    def __init__(self, model: ir.Model, max_bytes: int, failed: Mapping[ir.Node, str]) -> None:
        self.max_bytes = max_bytes
        self.failed = failed
        self.declined: dict[ir.Node, str] = {}
        self.scope_of: dict[ir.Node, edit.Scope] = {}  # the constant nodes, in topological order
        self.sizes: dict[ir.Value, int] = {}
        self.known: dict[ir.Value, Array] = {}
        self.facts = known_facts(model)
        self.partial = PartialValues(self.facts.shape)

    def visit(self, scope: edit.Scope) -> None:
        for node in scope:
            if self._is_constant(node, scope):
                self.scope_of[node] = scope
            else:
                for graph in self._live_subgraphs(node):
                    self.visit(graph)

    def _is_constant(self, node: ir.Node, scope: edit.Scope) -> bool:
        """Whether ``node`` yields the same in every run and may be computed; notes the sizes."""
        if is_constant(node):
            if isinstance(scope, ir.Function):
                return False  # a function has no initializers
            if (content := edit.constant_value(node.outputs[0])) is not None:
                return self._note(node, [content])
        spec = spec_of(node)
        if spec is None or not spec.foldable or node in self.failed or any(edit.subgraphs(node)):
            return False
        if any(attribute.is_ref() for attribute in node.attributes.values()):
            return False  # differs from call to call
        if (integers := self.partial.known(node)) is not None:
            return self._note(node, [integers])
        if not all(value is None or self._is_known(value) for value in node.inputs):
            return False
        inputs = [None if value is None else self._content(value, self.known) for value in node.inputs]
        complete = all(a is not None or v is None for a, v in zip(inputs, node.inputs, strict=True))
        size = spec.output_bytes(node, inputs) if complete and spec.output_bytes is not None else None
        if size is not None and size <= _AT_ONCE and spec.numpy is not None:
            try:
                contents = _compute(node, spec, inputs)
                if not spec.data_movement and any(_may_differ(content, inputs) for content in contents):
                    self.declined[node] = _KEPT_LONGER
                    return False
                return self._note(node, contents)
            except Declined:
                pass  # the runtime can
            except EvaluationError as error:
                self.declined[node] = f"it cannot be computed: {error.reason}"
                return False
        outputs = [value for value in node.outputs if value.name]
        if not spec.data_movement and any(self.facts.dtype(value) in _SHORT for value in outputs):
            self.declined[node] = _KEPT_LONGER
            return False
        sizes = [self._size(value) for value in outputs]
        if len(outputs) == 1 and sizes[0] is None:
            sizes = [None if size is None else size + folding.dims_size([1] * 8)]  # bounds both
        known = [size for size in sizes if size is not None]
        if len(known) < len(outputs):
            self.declined[node] = "the size of its result is not known before it is computed"
            return False
        if max(known, default=0) > self.max_bytes:
            self.declined[node] = f"its result has {max(known):,} bytes"
            return False
        self.sizes.update(zip(outputs, known, strict=True))
        return True

    def contents(self, plan: folding.FoldPlan, opset_imports: Mapping[str, int]) -> Mapping[ir.Value, Array]:
        """The contents of all stored values."""
        removed = set(plan.removed)
        found = dict(self.known)
        remaining: list[ir.Node] = []
        for node in self.scope_of:
            if node not in removed or all(value in found for value in node.outputs):
                continue
            inputs = [self._content(value, found) for value in node.inputs]
            absent = any(a is None and v is not None for a, v in zip(inputs, node.inputs, strict=True))
            spec = spec_of(node)
            if absent or spec is None or spec.numpy is None:
                remaining.append(node)
                continue
            try:
                found.update(zip(node.outputs, _compute(node, spec, inputs), strict=False))
            except Declined:
                remaining.append(node)
        if remaining:
            own = {value for node in remaining for value in node.outputs}
            given: dict[ir.Value, Array] = {}
            for value in (value for node in remaining for value in node.inputs):
                content = None if value is None or value in own else self._content(value, found)
                if value is not None and content is not None:
                    given[value] = content
            wanted = [value for value in plan.stored if value in own]
            if wanted:  # else they are all dead
                found |= evaluate(remaining, given, wanted, opset_imports=opset_imports)
        return found

    def _note(self, node: ir.Node, contents: Sequence[Array]) -> bool:
        for value, content in zip(node.outputs, contents, strict=False):
            self.known[value] = content
            self.sizes[value] = _nbytes(content) + folding.dims_size(content.shape)
        return True

    def _is_known(self, value: ir.Value) -> bool:
        return value in self.sizes or edit.constant_value(value) is not None

    def _content(self, value: ir.Value | None, found: Mapping[ir.Value, Array]) -> Array | None:
        if value is None:
            return None
        content = found.get(value)
        return content if content is not None else edit.constant_value(value)

    def _size(self, value: ir.Value) -> int | None:
        """Bytes of a result that has not been computed, and of its dimensions, from its inferred shape."""
        dims, dtype = self.facts.shape(value), self.facts.dtype(value)
        if dims is None or dtype is None or dtype == ir.DataType.STRING:
            return None
        known = [d for d in dims if isinstance(d, int)]
        if len(known) < len(dims):
            return None
        return math.ceil(math.prod(known) * dtype.itemsize) + folding.dims_size(known)

    def _live_subgraphs(self, node: ir.Node) -> Iterator[ir.Graph]:
        """The subgraphs of ``node`` that may run: not the branch that a constant condition excludes."""
        taken = taken_branch(node, self._content(node.inputs[0], self.known) if node.inputs else None)
        yield from edit.subgraphs(node) if taken is None else (taken,)


def _may_differ(content: Array, inputs: Sequence[Array | None]) -> bool:
    """Whether rounding to a 16-bit float took place, which onnxruntime may leave out.

    Where it has no 16-bit kernel it computes in float32, and drops the conversions between two such nodes.
    """
    if content.dtype.name not in ("float16", "bfloat16"):
        return False
    wide = content.astype(np.float64)
    return not any(a is not None and a.shape == content.shape and np.array_equal(a, wide) for a in inputs)


def _compute(node: ir.Node, spec: OpSpec, inputs: Sequence[Array | None]) -> list[Array]:
    """The results of an exact NumPy evaluator."""
    assert spec.numpy is not None
    try:
        with np.errstate(all="ignore"):
            return [np.asarray(result) for result in spec.numpy(node, inputs)]
    except Declined:
        raise
    except Exception as error:  # invalid nodes in whatever way: they fail when the model runs, if they run
        raise EvaluationError(node, str(error) or type(error).__name__) from error


def _nbytes(content: Array) -> int:
    return sum(len(item) + 2 for item in content.ravel()) if content.dtype == object else content.nbytes
