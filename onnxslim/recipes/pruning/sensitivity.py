"""How much noise the outputs get when one group alone is made narrower, and its consumers stand in for it.

One session serves all groups: the weights of the consumers become inputs with their old values as defaults,
and those of one group at a time are given as they would be after removing some atoms and fitting the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim._ir import ir
from onnxslim.model import edit
from onnxslim.recipes.noise import noise_to_signal
from onnxslim.recipes.pruning.criteria import elimination_of
from onnxslim.recipes.pruning.evidence import Consumer, Evidence, Weights
from onnxslim.recipes.pruning.merging import Into, mixed
from onnxslim.runtime.client import RemoteSession, Worker

__all__ = ["Prober", "lifted"]

Array = npt.NDArray[Any]
Feed = Mapping[str, Any]


def lifted(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy in which initializers are inputs as well, with their values as defaults."""
    copy = model.clone()
    copy.graph.inputs.extend(copy.graph.initializers[name] for name in names)
    copy.ir_version = max(copy.ir_version, 4)  # before, every initializer was an input
    return copy


class Prober:
    """Measures groups of one model.

    Args:
        weights: of the model.
        evidence: of the groups that will be measured.
        feeds: held-out inputs; a few are enough.
        merges: what goes is merged so into what stays; None: its consumers are fitted anew.
    """

    def __init__(
        self,
        worker: Worker,
        weights: Weights,
        evidence: Sequence[Evidence],
        feeds: Sequence[Feed],
        merges: Into | None = None,
    ) -> None:
        self._weights, self._feeds, self._merges = weights, feeds, merges
        model = weights.model.clone()
        edit.know_names(model)  # a copy shares what its original knows of them
        names: dict[str, None] = {}
        self._bias: dict[str, str] = {}
        for each in evidence:
            for consumer in each.products:
                weight = consumer.product.weight.name or ""
                names[weight] = None
                bias = _bias_of(model, consumer)
                if bias is not None:
                    names[bias] = None
                    self._bias[weight] = bias
            if not each.products:
                names.update(dict.fromkeys(m.value for m in each.group.with_role("producer")))
        chosen = [name for name in names if name in model.graph.initializers]
        self._names = frozenset(chosen)
        self._session: RemoteSession = worker.load(lifted(model, chosen))
        self._reference = [self._session.run(feed) for feed in feeds]

    def curve(
        self, evidence: Evidence, order: npt.NDArray[np.int64], removed: Sequence[int]
    ) -> tuple[float, ...]:
        """Noise over signal at the noisiest output, for each number of removed atoms, made monotonous.

        Args:
            order: of removal.
            removed: numbers of atoms, from none upwards.
        """
        fitted = [each for each in evidence.products if each.seen is not None and each.seen.count]
        states = [] if self._merges else [elimination_of(each) for each in fitted]
        noises, done = [], 0
        for count in removed:
            if count == 0:
                noises.append(0.0)
                continue
            for state in states:
                state.remove(order[done:count])
            done = count
            given: dict[str, Array] = {}
            if self._merges:
                for consumer, weight in mixed(evidence, order[:count], self._merges):
                    given |= self._given(consumer, self._with_bias(consumer, weight))
            for consumer, state in zip(fitted, states, strict=False):
                given |= self._given(consumer, state.weight)
            for consumer in evidence.products:
                if consumer not in fitted and not self._merges:
                    given |= self._given(consumer, _masked(consumer, order[:count]))
            if not evidence.products:
                given |= self._silent(evidence, order[:count])
            given = {name: value for name, value in given.items() if name in self._names}
            found = [self._session.run({**feed, **given}) for feed in self._feeds]
            noises.append(noise_to_signal(self._reference, found))
        return tuple(np.maximum.accumulate(noises).tolist())

    def close(self) -> None:
        """Free the session."""
        self._session.close()

    def _given(self, consumer: Consumer, weight: Array) -> dict[str, Array]:
        product = consumer.product
        name = product.weight.name or ""
        length = consumer.weight.shape[1]
        found = {name: product.linear.weight_of(weight[:, :length], product.shape).astype(np.float32)}
        if weight.shape[1] > length and name in self._bias:
            found[self._bias[name]] = weight[:, length].reshape(-1).astype(np.float32)
        return found

    def _with_bias(self, consumer: Consumer, weight: Array) -> Array:
        """What is added to the bias, and the bias."""
        length, bias = consumer.weight.shape[1], consumer.product.bias
        stored = None if bias is None else edit.constant_value(bias)
        if weight.shape[1] > length and stored is not None:
            weight[:, length] += np.broadcast_to(stored, weight[:, length].size).reshape(
                weight[:, length].shape
            )
        return weight

    def _silent(self, evidence: Evidence, atoms: npt.NDArray[np.int64]) -> dict[str, Array]:
        """What makes these channels, set to zero."""
        found: dict[str, Array] = {}
        for member in evidence.group.with_role("producer"):
            array = found.get(member.value)
            stored = self._weights.array(member.value) if array is None else array
            if stored is None:
                continue
            copy = stored.copy()
            np.moveaxis(copy, member.axis, 0)[member.indices(atoms)] = 0
            found[member.value] = copy
        return found


def _masked(consumer: Consumer, atoms: npt.NDArray[np.int64]) -> Array:
    weight = consumer.weight.copy()
    weight.reshape(-1, weight.shape[2])[consumer.rows[atoms].reshape(-1)] = 0
    return weight


def _bias_of(model: ir.Model, consumer: Consumer) -> str | None:
    """The name of the bias in the copy; made where there is none but a place for it."""
    product = consumer.product
    if product.bias is not None:
        return product.bias.name if product.bias.is_initializer() and len(product.bias.uses()) == 1 else None
    if product.linear.bias is None:
        return None
    groups, _, outputs = consumer.weight.shape
    node = next(node for node in model.graph if node.outputs and node.outputs[0].name == product.name)
    if len(node.inputs) > product.linear.bias and node.inputs[product.linear.bias] is not None:
        return node.inputs[product.linear.bias].name  # type: ignore[union-attr]
    added = edit.add_initializer(model.graph, np.zeros(groups * outputs, np.float32), f"{product.name}_bias")
    node.resize_inputs(max(len(node.inputs), product.linear.bias + 1))
    node.replace_input_with(product.linear.bias, added)
    return added.name
