"""Which weights can do with few bits: by the noise that each of them alone brings into the outputs.

One session serves all weights: they become inputs with their old values as defaults, and one at a time is
given as it would come back from few bits.  Noises of independent roundings add up, so that the weights whose
noise is small for the bytes it saves are taken until the sum reaches what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from onnxslim._ir import ir
from onnxslim.analysis.products import product_inputs
from onnxslim.calibration.data import DataLike
from onnxslim.calibration.plan import make_plan
from onnxslim.calibration.runner import calibrate
from onnxslim.calibration.store import Calibration
from onnxslim.recipes.noise import noise_to_signal
from onnxslim.reconstruct.blocks import Coded
from onnxslim.runtime.client import Worker

__all__ = ["inputs_of_weights", "noise_of_weights", "too_noisy"]

Feed = Mapping[str, Any]

_MOMENTS_BYTES = 1 << 30  # of all second moments together; what exceeds it is rounded to nearest
_SMALL = 0.002  # of all weights: what a smaller one could save is not worth a measurement; it keeps 8 bits


_SHARE = (
    10  # times the share of the elements, from which on a weight's share of the noise is out of proportion
)


class Narrowing(Protocol):
    """A pass that can say which weights it would store in fewer than 8 bits."""

    def narrow(self, model: ir.Model) -> dict[str, Coded]:
        """Initializers of the main graph, by name."""


def inputs_of_weights(model: ir.Model, data: DataLike) -> Calibration | None:
    """Second moments of the tensors that constant weights are multiplied with; None where there are none."""
    plan = make_plan(model)
    observed = {tap.name for tap in (*plan.inputs, *plan.fetches)}
    names, left = [], _MOMENTS_BYTES
    for name, channels in product_inputs(model).items():
        size = 8 * channels**2
        if name in observed and size <= left:
            names.append(name)
            left -= size
    return calibrate(model, data, tensors=names, second_moments=names) if names else None


def noise_of_weights(
    worker: Worker, model: ir.Model, packing: Narrowing, feeds: Sequence[Feed]
) -> dict[str, float]:
    """Noise to signal of the noisiest output, for each weight as ``packing`` would round it alone.

    Args:
        packing: of few bits.
        feeds: a few are enough.

    Returns:
        By name; infinite for weights that are too small to be worth fewer bits.
    """
    codes = packing.narrow(model)
    total = sum(math.prod(coded.shape) for coded in codes.values())
    large = {name: coded for name, coded in codes.items() if math.prod(coded.shape) >= _SMALL * total}
    noises = dict.fromkeys(codes, math.inf)
    if not large or not feeds:
        return noises
    lifted = model.clone()
    lifted.graph.inputs.extend(lifted.graph.initializers[name] for name in large)
    lifted.ir_version = max(lifted.ir_version, 4)  # before, every initializer was an input
    with worker.load(lifted) as session:
        reference = [session.run(feed) for feed in feeds]
        for name, coded in large.items():
            weight = {name: coded.decode()}
            noises[name] = noise_to_signal(reference, [session.run({**feed, **weight}) for feed in feeds])
    return noises


def too_noisy(noises: Mapping[str, float], sizes: Mapping[str, int], sqnr_db: float) -> tuple[str, ...]:
    """The weights that must keep 8 bits, if the outputs are to have ``sqnr_db``.

    So do those that bring far more than their share of the noise: they are cheap to be rid of.

    Args:
        sizes: elements of each weight: what it saves.

    Example:
        >>> too_noisy({"a": 0.004, "b": 0.004, "c": 0.005}, {"a": 10, "b": 500, "c": 1000}, 20)
        ('a',)
        >>> too_noisy({"a": 0.004, "b": 0.001}, {"a": 10, "b": 1000}, 20)
        ('a',)
    """
    left = 10 ** (-sqnr_db / 10)
    wide = []
    for name in sorted(noises, key=lambda name: noises[name] / sizes[name]):
        if noises[name] <= left:
            left -= noises[name]
        else:
            wide.append(name)
    narrow = noises.keys() - set(wide)
    noise, size = sum(noises[name] for name in narrow), sum(sizes[name] for name in narrow)
    wide += [name for name in noises if name in narrow and noises[name] * size > _SHARE * noise * sizes[name]]
    return tuple(wide)
