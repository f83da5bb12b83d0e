"""Which constant subexpressions pay for themselves when their results are stored instead.

A folded result costs its bytes in the file; what it makes superfluous (nodes, and initializers that nobody
else reads) pays for it.  Anything that does not pay stays: an embedding that is tied to a transposed copy, a
large tensor filled with one value, an int8 weight that would become float32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from onnxslim._ir import ir
from onnxslim.model.sizes import tensor_size

__all__ = ["FoldPlan", "dims_size", "plan"]

_SMALL = 1024  # bytes: results this small may be paid by what others have saved
_REACH = 2_000  # nodes looked at to pay for one result; what lies further is not counted in its favour


@dataclass(frozen=True)
class FoldPlan:
    """What to store and what to remove.

    Attributes:
        stored: values whose content replaces their producer.
        removed: nodes that become superfluous, consumers before producers.
        declined: node -> the bytes that the file would grow by.
    """

    stored: tuple[ir.Value, ...] = ()
    removed: tuple[ir.Node, ...] = ()
    declined: Mapping[ir.Node, int] = field(default_factory=dict)


def plan(candidates: Sequence[ir.Node], sizes: Mapping[ir.Value, int]) -> FoldPlan:
    """Choose among ``candidates``, constant nodes in topological order, those that pay.

    Args:
        sizes: the bytes of each of their outputs, :func:`dims_size` included.

    Consumers are decided before producers, so where the last node of a chain would grow the file, a shorter
    chain may still pay.  Nodes that do not pay alone, but read the same initializer, are tried together: the
    slices of one tensor, which between them use it up.
    """
    ledger = _Ledger(set(candidates))
    stored: dict[ir.Value, None] = {}
    unpaid: dict[ir.Node, _Offer] = {}
    for node in reversed(candidates):
        outputs = ledger.needed(node)
        offer = ledger.offer([node], sum(_cost(value, sizes[value]) for value in outputs))
        if not outputs or ledger.accepts(offer):
            ledger.take(offer if outputs else _Offer({node: None}))
            stored.update(dict.fromkeys(outputs))
        else:
            unpaid[node] = offer
    for group in _sharing(unpaid):
        outputs = [value for node in group for value in ledger.needed(node)]
        offer = ledger.offer(group, sum(_cost(value, sizes[value]) for value in outputs))
        if len(group) > 1 and ledger.accepts(offer):
            ledger.take(offer)
            stored.update(dict.fromkeys(outputs))
            for node in group:
                del unpaid[node]
    for node in list(unpaid):  # now that it is known what there is to spend
        outputs = ledger.needed(node)
        offer = ledger.offer([node], sum(_cost(value, sizes[value]) for value in outputs))
        if offer.cost <= _SMALL and ledger.accepts(offer):
            ledger.take(offer)
            stored.update(dict.fromkeys(outputs))
            del unpaid[node]
    removed = tuple(node for node in reversed(candidates) if node in ledger.removed)
    return FoldPlan(tuple(stored), removed, {node: offer.cost - offer.gain for node, offer in unpaid.items()})


@dataclass
class _Offer:
    """Removing ``nodes`` costs and gains so many bytes; ``roots`` are the initializers they read."""

    nodes: dict[ir.Node, None]
    roots: dict[ir.Value, None] = field(default_factory=dict)
    cost: int = 0
    gain: int = 0


class _Ledger:
    """What has been removed so far, and the bytes that this has saved beyond what was spent."""

    def __init__(self, candidates: set[ir.Node]) -> None:
        self.candidates = candidates
        self.removed: set[ir.Node] = set()
        self.saved = 0

    def needed(self, node: ir.Node) -> list[ir.Value]:
        """The outputs of ``node`` that something else than removed nodes reads."""
        return [value for value in node.outputs if not self._unread(value, {})]

    def offer(self, starts: Iterable[ir.Node], cost: int) -> _Offer:
        """Removing ``starts`` and everything that only they keep alive."""
        offer = _Offer(dict.fromkeys(starts), cost=cost)
        work = list(offer.nodes)
        while work:
            node = work.pop()
            if node not in self.removed:  # else its bytes have been counted
                offer.gain += _node_size(node)
            for value in node.inputs:
                if value is None:
                    continue
                if value.is_initializer() and not value.is_graph_input():
                    offer.roots[value] = None
                producer = value.producer()
                if producer is None or producer not in self.candidates or producer in offer.nodes:
                    continue
                superfluous = all(self._unread(output, offer.nodes) for output in producer.outputs)
                if superfluous and len(offer.nodes) < _REACH:
                    offer.nodes[producer] = None
                    work.append(producer)
        for value in offer.roots:
            if value.const_value is not None and self._unread(value, offer.nodes):
                offer.gain += tensor_size(value.const_value)
        return offer

    def accepts(self, offer: _Offer) -> bool:
        return offer.cost <= offer.gain + (self.saved if offer.cost <= _SMALL else 0)

    def take(self, offer: _Offer) -> None:
        self.removed.update(offer.nodes)
        self.saved += offer.gain - offer.cost

    def _unread(self, value: ir.Value, also_removed: Mapping[ir.Node, None]) -> bool:
        if value.is_graph_output():
            return False
        return all(use.node in self.removed or use.node in also_removed for use in value.uses())


def _sharing(offers: Mapping[ir.Node, _Offer]) -> list[list[ir.Node]]:
    """The nodes whose offers read the same initializer (the largest, where one reads several)."""
    groups: dict[ir.Value, list[ir.Node]] = defaultdict(list)
    for node, offer in offers.items():
        if offer.roots:
            groups[max(offer.roots, key=_elements)].append(node)
    return list(groups.values())


def _elements(value: ir.Value) -> int:
    return 0 if value.const_value is None else int(value.const_value.size)


def dims_size(dims: Iterable[int]) -> int:
    """Bytes that the dimensions of a stored tensor take."""
    return sum(1 + max(1, (dim.bit_length() + 6) // 7) for dim in dims)


def _cost(value: ir.Value, size: int) -> int:
    """Bytes of an initializer's message: content and dimensions, name, type, tags and lengths."""
    lengths = 2 * ((size + 64).bit_length() // 7 + 1)
    return size + len((value.name or "").encode()) + lengths + 6


def _node_size(node: ir.Node) -> int:
    """Bytes of a node's message, at least."""
    total = 4 + len(node.op_type) + len(node.name or "")
    for value in (*node.inputs, *node.outputs):
        total += 2 + len(value.name or "" if value is not None else "")
    for attribute in node.attributes.values():
        total += 7 + len(attribute.name)
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            total += 2 + tensor_size(attribute.value)
        elif attribute.type in (ir.AttributeType.INTS, ir.AttributeType.STRINGS):
            total += len(attribute.value)
        elif attribute.type == ir.AttributeType.FLOATS:
            total += 4 * len(attribute.value)
    return total
