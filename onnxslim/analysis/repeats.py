"""Parts of a graph that compute the same over the same stored tensors, from different inputs.

Nodes are alike that have one operator, equal attributes and the same stored tensors in the same places: one
hash look-up for each.  From nodes that are alike the parts grow along the edges, all at once and node by
node, as long as what is added is alike everywhere; so they are isomorphic by construction.  Every node is
looked at a few times, so that the time is nearly linear.  Then what could not be one node each is cut off: a
part that is left and entered again.
"""

from __future__ import annotations

import graphlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxslim._ir import ir
from onnxslim.model.edit import scopes, subgraphs

__all__ = ["LEAST_NODES", "Repeat", "find_repeats", "function_notes"]

LEAST_NODES = 4  # of a part; below, calls cost as much as they save

Key = Callable[[ir.Node], Hashable]
Tuple = tuple[ir.Node, ...]  # the nodes at one place of all parts


@dataclass(frozen=True)
class Repeat:
    """Parts that are alike.

    Attributes:
        places: in topological order, the node of each part at each place.
    """

    places: tuple[Tuple, ...]

    @property
    def parts(self) -> int:
        """How many there are."""
        return len(self.places[0])

    @property
    def nodes(self) -> set[ir.Node]:
        """All nodes of all parts."""
        return {node for place in self.places for node in place}


def find_repeats(
    graph: ir.Graph,
    key: Key,
    stored: Callable[[ir.Value], bool],
    failed: set[ir.Node],
    least: int = LEAST_NODES,
) -> list[Repeat]:
    """Parts of one graph that are alike, no two of which share a node, those of the rarest nodes first.

    Each part of all of them could be one node, and the graph would have no cycle.

    Args:
        key: equal for nodes that are alike; None where a node is like no other.
        stored: whether a value is a stored tensor.
        failed: nodes from which nothing grew; more of them are added.
        least: nodes of a part.
    """
    nodes = list(graph)
    order = {node: at for at, node in enumerate(nodes)}
    keys = {node: key(node) for node in nodes}
    groups: dict[Hashable, list[ir.Node]] = defaultdict(list)
    for node in nodes:
        read = (value for value in node.inputs if value is not None)
        if keys[node] is not None and any(stored(value) for value in read):
            groups[keys[node]].append(node)
    made_by = _makers(nodes)
    found: list[Repeat] = []
    for group in sorted((group for group in groups.values() if len(group) > 1), key=len):
        if any(node in failed or keys[node] is None for node in group):
            continue
        grown = _Growth(tuple(group), keys, order, stored)
        places = _whole(grown.places, made_by, nodes, order, stored)
        if len(places) >= least:
            found.append(Repeat(tuple(places)))
            keys.update(dict.fromkeys(found[-1].nodes))  # nobody else may have them
        else:
            failed.update(node for place in grown.places for node in place)
    low, high = 0, len(found)  # so many have no cycle among them
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _is_acyclic(found[:middle], made_by) else (low, middle - 1)
    if low < len(found):
        failed.update(found[low].nodes)
        return found[:low] or find_repeats(graph, key, stored, failed, least)
    return found


def function_notes(before: ir.Model, after: ir.Model) -> Iterator[str]:
    """A sentence about each function that ``after`` has and ``before`` has not."""
    called = Counter(node.op_identifier() for scope in scopes(after) for node in scope)
    for identifier, function in after.functions.items():
        if identifier not in before.functions:
            nodes = len(list(function))
            yield f"{called[identifier]} parts of {nodes} nodes are calls of one function, {function.name}"


class _Growth:
    """Parts that grow from nodes that are alike, one for each."""

    def __init__(
        self,
        seed: Tuple,
        keys: Mapping[ir.Node, Hashable],
        order: Mapping[ir.Node, int],
        stored: Callable[[ir.Value], bool],
    ) -> None:
        self._keys, self._order, self._stored = keys, order, stored
        self._taken: set[ir.Node] = set(seed)
        found, waiting = [seed], deque([seed])
        while waiting:
            for place in self._neighbours(waiting.popleft()):
                if self._is_alike(place):
                    self._taken.update(place)
                    found.append(place)
                    waiting.append(place)
        self.places = sorted(found, key=lambda place: order[place[0]])

    def _is_alike(self, place: Tuple) -> bool:
        key = self._keys.get(place[0])
        alike = key is not None and all(self._keys.get(node) == key for node in place[1:])
        return alike and len(set(place)) == len(place) and not self._taken.intersection(place)

    def _neighbours(self, place: Tuple) -> Iterator[Tuple]:
        """What makes the inputs of the nodes, and what reads their outputs."""
        for values in zip(*(node.inputs for node in place), strict=True):
            makers = tuple(
                value.producer() for value in values if value is not None and not self._stored(value)
            )
            outputs = {value.index() for value in values if value is not None}
            if len(outputs) == 1 and len(makers) == len(place):
                whole = tuple(node for node in makers if node is not None)
                if len(whole) == len(place):
                    yield whole
        for values in zip(*(node.outputs for node in place), strict=True):
            readers = [self._readers(value) for value in values]
            for use in readers[0]:
                if all(use in each for each in readers):
                    yield tuple(each[use] for each in readers)

    def _readers(self, value: ir.Value) -> dict[Hashable, ir.Node]:
        """The only reader of each kind, at each input."""
        found: dict[Hashable, list[ir.Node]] = defaultdict(list)
        for node, index in value.uses():
            if self._keys.get(node) is not None:
                found[self._keys[node], index].append(node)
        return {use: nodes[0] for use, nodes in found.items() if len(nodes) == 1}


def _makers(nodes: Sequence[ir.Node]) -> dict[ir.Node, set[ir.Node]]:
    """The nodes whose outputs a node reads, in its subgraphs too."""
    own = set(nodes)
    made_by: dict[ir.Node, set[ir.Node]] = {}
    for node in nodes:
        inside = (inner for graph in subgraphs(node) for inner in graph.all_nodes())
        read = (value for each in (node, *inside) for value in each.inputs if value is not None)
        made_by[node] = {maker for value in read if (maker := value.producer()) in own and maker is not None}
    return made_by


def _whole(
    places: Sequence[Tuple],
    made_by: Mapping[ir.Node, set[ir.Node]],
    nodes: Sequence[ir.Node],
    order: Mapping[ir.Node, int],
    stored: Callable[[ir.Value], bool],
) -> list[Tuple]:
    """The places that can be one node in each part, with all that they need of it in front of them.

    What is cut off takes with it what lies behind it, so nothing has to be looked at twice.
    """
    at = {node: (part, number) for number, place in enumerate(places) for part, node in enumerate(place)}
    first, last = min(order[node] for node in at), max(order[node] for node in at)
    behind: dict[ir.Node, int] = {}  # a bit for each part that lies in front, beyond what is not of it
    bad = {number for number, place in enumerate(places) if not _is_wired_alike(place, at, stored)}
    for node in nodes[first : last + 1]:
        mine = at.get(node)
        reached = 0
        for maker in made_by[node]:
            origin = at.get(maker)
            outside = behind.get(maker, 0)
            if mine is not None and (origin is None or origin[0] != mine[0]) and outside >> mine[0] & 1:
                bad.add(mine[1])
            reached |= outside | (0 if origin is None else 1 << origin[0])
        behind[node] = reached if mine is None else reached & ~(1 << mine[0])
    kept = []
    for number, place in enumerate(places):
        inner = (
            at[maker][1]
            for part, node in enumerate(place)
            for maker in made_by[node]
            if maker in at and at[maker][0] == part
        )
        if number not in bad and bad.isdisjoint(inner):
            kept.append(place)
        else:
            bad.add(number)
    return kept


def _is_wired_alike(
    place: Tuple, at: Mapping[ir.Node, tuple[int, int]], stored: Callable[[ir.Value], bool]
) -> bool:
    """Whether each input comes from the same place of all parts, or from outside all of them."""
    for values in zip(*(node.inputs for node in place), strict=True):
        sources = set()
        for part, value in enumerate(values):
            maker = None if value is None or stored(value) else value.producer()
            origin = None if maker is None else at.get(maker)
            same = value is not None and origin is not None and origin[0] == part
            sources.add((origin[1], value.index()) if same and origin and value else None)
        if len(sources) > 1:
            return False
    return True


def _is_acyclic(repeats: Sequence[Repeat], made_by: Mapping[ir.Node, set[ir.Node]]) -> bool:
    """Whether the graph has no cycle when each part of all repeats is one node."""
    part_of: dict[ir.Node, Hashable] = {
        node: (number, part)
        for number, repeat in enumerate(repeats)
        for place in repeat.places
        for part, node in enumerate(place)
    }
    needs: dict[Hashable, set[Hashable]] = defaultdict(set)
    for node, makers in made_by.items():
        whole = part_of.get(node, node)
        needs[whole] |= {source for maker in makers if (source := part_of.get(maker, maker)) != whole}
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError:
        return False
    return True
