"""What is known about the channels of one group: the weights that make them, and those that use them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.analysis.channels import Group, Member
from onnxslim.analysis.extract import named_values
from onnxslim.analysis.linears import Product, products_of
from onnxslim.model import edit
from onnxslim.ops.normalization import is_scale
from onnxslim.recipes.pruning.observe import Seen

__all__ = ["Consumer", "Evidence", "Weights"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Consumer:
    """One product that reads the group.

    Attributes:
        product: the product.
        weight: ``[groups, length, outputs]``, float64, without the bias.
        rows: for each atom the rows of the weight that it is multiplied with, as indices into the flattened
            ``[groups * length]``, ``[size, rows]``.
        seen: what the product was observed to get; None without data.
    """

    product: Product
    weight: Array
    rows: npt.NDArray[np.int64]
    seen: Seen | None = None


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at to rank the atoms of a group.

    Attributes:
        group: the group.
        producers: stored tensors whose slices make the channels, ``[size, elements]`` each.
        vectors: for each of them, whether it holds one number per channel (a bias, a scale).
        consumers: stored tensors that use them, ``[size, elements]`` each.
        scales: those of ``producers`` that scale a normalised channel.
        products: the consumers that are matrix products, with what they were observed to get.
    """

    group: Group
    producers: tuple[Array, ...] = ()
    vectors: tuple[bool, ...] = ()
    consumers: tuple[Array, ...] = ()
    scales: tuple[Array, ...] = ()
    products: tuple[Consumer, ...] = ()

    @property
    def size(self) -> int:
        """Number of atoms."""
        return self.group.size


@dataclass
class Weights:
    """The stored tensors of a model, read once, and who uses them.

    Args:
        seen: by the name of a product's weight.
    """

    model: ir.Model
    seen: Mapping[str, Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.products = {p.weight.name or "": p for p in products_of(self.model)}
        self._values = {**self.model.graph.initializers, **named_values(self.model.graph)}

    def array(self, name: str) -> Array | None:
        """A stored tensor of numbers of the main graph."""
        found = edit.constant_value(self._values.get(name))
        return found if found is not None and found.dtype.kind == "f" else None

    def evidence(self, group: Group) -> Evidence:
        """Collect it."""
        producers = self._slices(group, group.with_role("producer"))
        consumers = self._slices(group, group.with_role("consumer"))
        return Evidence(
            group,
            tuple(array for _, array, _ in producers),
            tuple(vector for _, _, vector in producers),
            tuple(array for _, array, _ in consumers),
            tuple(array for name, array, vector in producers if vector and self._is_scale(name)),
            tuple(self._consumers(group)),
        )

    def _slices(self, group: Group, members: Iterable[Member]) -> list[tuple[str, Array, bool]]:
        found = []
        for member in members:
            array = self.array(member.value)
            if array is None:
                continue
            along = np.moveaxis(array, member.axis, 0)[member.indices(range(group.size))]
            found.append((member.value, along.reshape(group.size, -1).astype(np.float64), array.ndim == 1))
        return found

    def _is_scale(self, name: str) -> bool:
        return any(is_scale(node, index) for node, index in self._values[name].uses())

    def _consumers(self, group: Group) -> Iterable[Consumer]:
        by_weight: dict[str, list[Member]] = {}
        for member in group.with_role("consumer"):
            by_weight.setdefault(member.value, []).append(member)
        for name, members in by_weight.items():
            product = self.products.get(name)
            array = self.array(name)
            if product is None or array is None:
                continue
            labels = np.full(array.shape, -1, np.int64)
            for member in members:
                along = np.moveaxis(labels, member.axis, -1)
                along[..., member.indices(range(group.size))] = np.repeat(np.arange(group.size), member.inner)
            flat = product.linear.matrix(labels)[:, :, 0].reshape(-1)
            order = np.argsort(flat, kind="stable")
            order = order[np.searchsorted(flat[order], 0) :]
            if len(order) % group.size:
                continue
            rows = order.reshape(group.size, -1)
            weight = product.linear.matrix(array).astype(np.float64)
            yield Consumer(product, weight, rows, self.seen.get(name))
