"""What an analysis of channels yields: groups of them, and what cannot be removed with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Channels", "Group", "Member", "Pin", "Role"]

Role = Literal["producer", "consumer", "activation", "shape"]


@dataclass(frozen=True, slots=True)
class Member:
    """Where the atoms of a group lie in a tensor: atom i is ``[start + i * inner, start + (i + 1) * inner)``.

    A tensor that holds a group several times over has one member for each: a weight of a recurrent layer one
    for each gate, a projection to ``heads * size`` one for each head in the group of ``size``.

    Attributes:
        value: name of the initializer, Constant or activation.
        axis: which of its axes; of a ``shape``, the element (flat).
        role: ``producer``, a stored tensor whose slices make the channel (output axis of a weight, bias,
            scale); ``consumer``, a stored tensor that is multiplied with the channel and summed over it
            (input axis of a weight); ``activation``, a tensor computed in each run; ``shape``, an integer
            that holds the size of an axis (``start`` and ``inner`` mean nothing then).
    """

    value: str
    axis: int
    start: int
    inner: int
    role: Role

    def indices(self, atoms: Iterable[int]) -> npt.NDArray[np.int64]:
        """Indices along the axis that some atoms occupy, in the order of the atoms.

        Example:
            >>> Member("w", 0, 8, 2, "producer").indices([0, 3]).tolist()
            [8, 9, 14, 15]
        """
        first = self.start + self.inner * np.fromiter(atoms, np.int64)
        return np.asarray(first[:, None] + np.arange(self.inner)).reshape(-1)


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that can be removed one by one, each from all tensors at once.

    Two groups may share indices of an axis: one of ``heads * size`` has a group of heads (``inner`` = size)
    and one of positions in a head (a member for each head).  What either removes is removed.

    Attributes:
        index: position in :attr:`Channels.groups`.
        key: stable name, the same after saving and loading: first producer, axis, start and inner.
        size: number of atoms.  At least one must stay.
        members: where they lie, stored tensors first, in the order of the graph.
        channels: output channels of weights that one atom takes along, a measure of how much it is worth.
    """

    index: int
    key: str
    size: int
    members: tuple[Member, ...]
    channels: int

    def with_role(self, role: Role) -> tuple[Member, ...]:
        """The members of one role."""
        return tuple(member for member in self.members if member.role == role)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        members = [
            {"value": m.value, "axis": m.axis, "start": m.start, "inner": m.inner, "role": m.role}
            for m in self.members
        ]
        return {"key": self.key, "size": self.size, "channels": self.channels, "members": members}


@dataclass(frozen=True, slots=True)
class Pin:
    """Channels that stay: ``size`` of them along an axis of a stored tensor.

    Attributes:
        value, axis, start: the first stored tensor that holds them, and where.
        reason: why, in words.
        node: name of the node (or of the graph input or output) that wants it so.
        interface: graph inputs or outputs fix them, so no analysis could do better.
    """

    value: str
    axis: int
    start: int
    size: int
    reason: str
    node: str
    interface: bool


@dataclass(frozen=True)
class Channels:
    """All groups of a model, and what is pinned.

    Attributes:
        prunable: output channels of weights (rows of a Gemm, filters of a Conv, hidden units of an LSTM,
            columns of an embedding) that belong to a group.
        fixed: those that the graph's inputs and outputs fix.
        total: all of them.
    """

    groups: tuple[Group, ...]
    pins: tuple[Pin, ...]
    prunable: int
    fixed: int
    total: int

    @property
    def coverage(self) -> float:
        """Prunable share of the output channels that the interface does not fix; 1 where there are none."""
        free = self.total - self.fixed
        return self.prunable / free if free else 1.0

    @cached_property
    def by_key(self) -> Mapping[str, Group]:
        """Group by its stable name."""
        return {group.key: group for group in self.groups}

    @cached_property
    def edges(self) -> tuple[tuple[int, ...], ...]:
        """For each group, the positions of those whose channels a weight makes of its own."""
        makers: dict[str, list[int]] = {}
        for group in self.groups:
            for name in dict.fromkeys(member.value for member in group.with_role("producer")):
                makers.setdefault(name, []).append(group.index)

        def fed(group: Group) -> set[int]:
            return {made for m in group.with_role("consumer") for made in makers.get(m.value, ())}

        return tuple(tuple(sorted(fed(group) - {group.index})) for group in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        pins = [{name: getattr(pin, name) for name in Pin.__slots__} for pin in self.pins]
        return {
            "coverage": self.coverage,
            "prunable": self.prunable,
            "fixed": self.fixed,
            "total": self.total,
            "groups": [group.to_dict() for group in self.groups],
            "pins": pins,
        }
