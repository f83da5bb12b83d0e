"""Walk over a model, ask every operator how it ties axes together, and gather the groups."""

from __future__ import annotations

from collections.abc import Container, Iterable

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.channels.coupling import Coupling, Survey
from onnxslim.analysis.channels.groups import Channels, Group, Member, Pin, Role
from onnxslim.analysis.channels.layout import Cell, Join, Layout, Reason, walk
from onnxslim.analysis.channels.names import declared_names
from onnxslim.analysis.channels.places import occurrences
from onnxslim.analysis.facts import known_facts
from onnxslim.model.edit import constant_value, scopes, subgraphs
from onnxslim.ops.coupling import pointwise
from onnxslim.ops.registry import is_constant, spec_of

__all__ = ["find_groups", "members_of", "survey"]


def find_groups(model: ir.Model, *, residual: bool = False) -> Channels:
    """The groups of channels of a model, which is left as it is.

    Args:
        residual: also those that pass through a normalisation (LayerNormalization and its kin) over the very
            axis: removing them changes its statistics, so the result no longer equals a masked model.

    Example:
        >>> import onnx.parser
        >>> text = '''<ir_version: 8, opset_import: ["" : 17]>
        ...     g (float[1,1] x) => (float[1,1] y) <float[1,2] a = {1, 2}, float[2,1] b = {3, 4}>
        ...     { h = MatMul(x, a)  r = Relu(h)  y = MatMul(r, b) }'''
        >>> [group] = find_groups(ir.from_proto(onnx.parser.parse_model(text))).groups
        >>> group.key, group.size, [(member.value, member.role) for member in group.members]
        ('a:1:0:1', 2, [('a', 'producer'), ('b', 'consumer'), ('h', 'activation'), ('r', 'activation')])
    """
    return gather(survey(model, residual=residual))


def survey(model: ir.Model, *, residual: bool = False) -> Survey:
    """How the axes of a model hang together."""
    facts = known_facts(model)
    coupling = Coupling(facts, declared_names(model, facts), residual=residual)
    for scope in scopes(model):  # overridable initializers, too, are the caller's
        graph = scope.graph if isinstance(scope, ir.Function) else scope
        for value in graph.initializers.values():
            if value.is_graph_input():
                coupling.pin_all(value, "a caller may override it", interface=True)
    for value in model.graph.inputs:
        coupling.pin_all(value, "it is an input of the model", interface=True)
    _walk(model.graph, coupling)
    for value in model.graph.outputs:
        coupling.pin_all(value, "it is an output of the model", interface=True)
    return coupling.survey()


def _walk(graph: Iterable[ir.Node], coupling: Coupling) -> None:
    for node in graph:
        if is_constant(node):
            continue
        for body in subgraphs(node):
            _walk(body, coupling)
        coupling.enter(node)
        spec = spec_of(node)
        moved: set[int] = set()
        couple = None
        if spec is not None:
            couple = spec.couple or (pointwise if spec.elementwise else None)
            moved = coupling.sizes.follow(node, spec)
        bodies = any(True for _ in subgraphs(node))
        values = [value for value in (*node.inputs, *node.outputs) if value is not None and value.name]
        if couple is not None and (bodies or all(map(coupling.known, values))):
            couple(node, coupling)
        else:
            for body in subgraphs(node):
                for value in (*body.inputs, *body.outputs):
                    coupling.pin_all(value, f"it goes into or comes out of {node.op_type}")
        if spec is not None and spec.from_dims is not None and couple is not None:
            source = node.inputs[0]
            if coupling.known(source) and source is not None:
                layouts = [coupling.of(source, axis) for axis in range(len(coupling.dims(source)))]
                coupling.sizes.shape(node, spec, layouts)
        coupling.leave(moved)


def members_of(found: Survey) -> dict[Cell, tuple[str, list[Member]]]:
    """The cells that are groups, those that some stored tensor makes: key and members."""
    cells: dict[Cell, list[Member]] = {}
    summed = {(sum_.node.inputs[sum_.index], sum_.axis) for sum_ in found.sums}
    made = set(found.weights)
    stored = {value for value in found.axes if constant_value(value) is not None}
    for value, axes in sorted(found.axes.items(), key=lambda item: item[0] not in stored):
        for axis, layout in sorted(axes.items()):
            roles: list[Role] = ["activation"]
            if value in stored:  # a tied weight may be read both ways
                roles = ["producer"] if (value, axis) in made or (value, axis) not in summed else []
                roles += ["consumer"] if (value, axis) in summed else []
            for cell, start, inner in occurrences(layout):
                places = [Member(value.name or "", axis, start, inner, role) for role in roles]
                cells.setdefault(cell, []).extend(places)
    groups: dict[Cell, tuple[str, list[Member]]] = {}
    for cell, members in cells.items():
        first = next((member for member in members if member.role == "producer"), None)
        if first is not None:
            groups[cell] = f"{first.value}:{first.axis}:{first.start}:{first.inner}", members
    return groups


def gather(found: Survey) -> Channels:
    """The groups of a survey, and what is pinned."""
    cells = members_of(found)
    for (value, element), held in found.sizes.stored.items():
        member = Member(value.name or "", element, 0, 1, "shape")
        for cell in dict.fromkeys(cell for cell, _, _ in occurrences(held.layout)):
            if cell in cells:
                cells[cell][1].append(member)
    worth = dict.fromkeys(cells, 0)
    prunable = fixed = total = 0
    pins: list[Pin] = []
    for value, axis in found.weights:
        layout = found.axes[value][axis]
        for cell, _, inner in occurrences(layout):
            if cell in worth:
                worth[cell] += inner
        free, outside = _free(layout, cells), _outside(layout)
        total += layout.size or 0
        prunable += int(free.sum())
        fixed += int((outside & ~free).sum())
        pins += _pins(value, axis, layout, cells)
    groups = tuple(
        Group(index, key, cell.size or 0, tuple(members), worth[cell])
        for index, (cell, (key, members)) in enumerate(cells.items())
    )
    return Channels(groups, tuple(pins), prunable, fixed, total)


def _free(layout: Layout, groups: Container[Cell]) -> npt.NDArray[np.bool_]:
    """Which indices belong to a group."""
    layout = walk(layout)
    if isinstance(layout, Cell):
        return np.full(layout.size or 0, layout in groups)
    masks = [_free(part, groups) for part in layout.parts]
    return np.concatenate(masks) if isinstance(layout, Join) else _either(masks)


def _outside(layout: Layout) -> npt.NDArray[np.bool_]:
    """Which indices the interface pins."""
    layout = walk(layout)
    if isinstance(layout, Cell):
        return np.full(layout.size or 0, layout.pin is not None and layout.pin.interface)
    masks = [_outside(part) for part in layout.parts]
    return np.concatenate(masks) if isinstance(layout, Join) else _either(masks)


def _either(masks: list[npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
    result = masks[0]
    for mask in masks[1:]:
        result = np.logical_or.outer(result, mask).reshape(-1)
    return result


def _pins(value: ir.Value, axis: int, layout: Layout, groups: Container[Cell]) -> list[Pin]:
    found: list[Pin] = []
    before = 0
    stack = [layout]
    while stack:
        top = walk(stack.pop())
        if isinstance(top, Join):
            stack += reversed(top.parts)
            continue
        size = top.size or 0
        reason = None if _free(top, groups).any() else _reason(top)
        if reason is not None:
            found.append(
                Pin(value.name or "", axis, before, size, reason.text, reason.node, reason.interface)
            )
        before += size
    return found


def _reason(layout: Layout) -> Reason | None:
    """Why nothing of it may be removed: what the interface says first, then what concerns most."""
    reasons: list[tuple[int, Reason]] = []
    stack = [layout]
    while stack:
        top = walk(stack.pop())
        if isinstance(top, Cell):
            if top.pin is not None:
                reasons.append((top.size or 0, top.pin))
            elif top.size == 1:
                reasons.append((1, Reason("there is only one")))
        else:
            stack += reversed(top.parts)
    reasons.sort(key=lambda item: (not item[1].interface, -item[0]))
    return reasons[0][1] if reasons else None
