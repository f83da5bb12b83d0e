"""Who shares which weights, and what that saves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from onnxslim._ir import ir
from onnxslim.analysis.constants import tensor_of
from onnxslim.model.edit import scopes
from onnxslim.model.tensors import shown

__all__ = ["Shared", "shared_weights", "sharing_notes"]

_NAMED = 10  # weights of which a report says what became of them
_NOTED = 1024  # bytes of them at least


@dataclass(frozen=True, slots=True)
class Shared:
    """A stored tensor that several nodes read; ``saved``: the bytes that a copy for each would add.

    Of a node that reads nothing else but small constants, the copy is what it computes: it makes a weight of
    another shape, sign or type.
    """

    name: str
    readers: tuple[str, ...]
    bytes: int
    saved: int


def shared_weights(model: ir.Model) -> tuple[Shared, ...]:
    """The initializers of rank 2 and more that several nodes read, those that save most first."""
    found = []
    for scope in scopes(model):
        for value in scope.initializers.values() if isinstance(scope, ir.Graph) else ():
            readers = dict.fromkeys(use.node for use in value.uses())
            if len(readers) > 1 and value.const_value is not None and len(value.const_value.shape) > 1:
                size = _bytes(value)
                copies = sorted((_copied(node, size) for node in readers), reverse=True)
                labels = tuple(node.name or node.op_type for node in readers)
                stored = copies.index(size) if size in copies else 0
                found.append(Shared(value.name or "", labels, size, sum(copies) - copies[stored]))
    return tuple(sorted(found, key=lambda shared: -shared.saved))


def _copied(node: ir.Node, size: int) -> int:
    """Bytes of the weight that ``node`` would read if it had one of its own, instead of one of ``size``."""
    constant = all(value is None or tensor_of(value) is not None for value in node.inputs)
    output = node.outputs[0]
    if not constant or len(node.outputs) != 1 or output.shape is None or output.dtype is None:
        return size
    dims = [dim for dim in output.shape if isinstance(dim, int)]
    known = len(dims) == len(output.shape) and output.dtype != ir.DataType.STRING
    return math.ceil(math.prod(dims) * output.dtype.itemsize) if known else size


def sharing_notes(before: ir.Model, after: ir.Model) -> Iterator[str]:
    """A sentence for each of the largest weights of ``before`` that ``after`` stores as another one.

    Nodes are joined by the names of their outputs, and a view has the name of the weight that it replaces.
    """
    producers = {
        value.name: node
        for scope in scopes(after)
        for node in scope
        for value in node.outputs
        if value.name and tensor_of(value) is None
    }
    stored_as: dict[str, str] = {}
    sizes: Counter[str] = Counter()
    for scope in scopes(before):
        for node in scope:
            now = producers.get(node.outputs[0].name or "") if node.outputs else None
            inputs = now.inputs if now is not None and len(now.inputs) == len(node.inputs) else ()
            for old, new in zip(node.inputs, inputs, strict=False):
                if old is None or new is None or not old.name or not new.name or tensor_of(old) is None:
                    continue
                maker = new.producer() if tensor_of(new) is None else None
                if maker is not None and maker.inputs and maker.inputs[0] is not None:
                    stored_as[old.name] = f"{maker.op_type} of {_plain(maker.inputs[0].name)}"
                elif old.name != new.name:
                    stored_as[old.name] = _plain(new.name)
                else:
                    continue
                sizes[old.name] = _bytes(old)
    named = [name for name, size in sizes.most_common(_NAMED) if size >= _NOTED]
    for name in named:
        yield f"{_plain(name)} is stored as {stored_as[name]}"
    if len(sizes) > len(named):
        yield f"smaller tensors that are stored as others: {len(sizes) - len(named)}"


def _plain(name: str | None) -> str:
    return shown(name)[1:-1]


def _bytes(value: ir.Value) -> int:
    tensor = tensor_of(value)
    return 0 if tensor is None or tensor.dtype == ir.DataType.STRING else tensor.nbytes
