"""The noise of a narrower group, against a model that is really made so and fitted in closed form."""

from __future__ import annotations

import numpy as np

from onnxslim.analysis.channels import find_groups
from onnxslim.model.edit import constant_value, replace_initializer
from onnxslim.recipes.pruning.evidence import Weights
from onnxslim.recipes.pruning.observe import observe
from onnxslim.recipes.pruning.sensitivity import Prober
from onnxslim.runtime.client import open_worker
from tests.models import run
from tests.recipes.pruning.nets import COPIES, feeds, small_net


def test_curves_are_the_noise_of_the_masked_and_fitted_model() -> None:
    model = small_net()
    group = next(g for g in find_groups(model).groups if any(m.value == "w1" for m in g.members))
    weights, held_out = Weights(model), feeds(6, seed=50)
    with open_worker() as worker:
        products = list(weights.products.values())
        weights.seen = observe(worker, model, feeds(200), products)
        evidence = weights.evidence(group)
        prober = Prober(worker, weights, [evidence], held_out)
        copies = np.array([*COPIES, *range(8)])
        order = np.array([2, 10, *(i for i in range(16) if i not in (2, 10))])
        free, dear = prober.curve(evidence, copies, (0, 4, 8)), prober.curve(evidence, order, (0, 2))
        prober.close()
    assert free[0] == 0 and max(free) < 1e-3  # copies are stood in for, damping aside
    # least squares of the pointwise product on all positions of the same inputs, by numpy
    values = model.clone()
    values.graph.outputs[:] = [value for node in values.graph for value in node.outputs if value.name == "r2"]
    rows = np.concatenate([np.moveaxis(run(values, feed)[0], 1, -1).reshape(-1, 16) for feed in feeds(200)])
    design = np.concatenate([rows, np.ones((len(rows), 1))], axis=1).astype(np.float64)
    weight = constant_value(model.graph.initializers["w3"])
    assert weight is not None
    kept = [i for i in range(17) if i not in (2, 10)]
    fitted = np.zeros((17, 12))
    fitted[kept] = np.linalg.lstsq(design[:, kept], rows @ weight[:, :, 0, 0].T, rcond=None)[0]
    masked = model.clone()
    replace_initializer(
        masked.graph.initializers["w3"], fitted[:16].T.reshape(12, 16, 1, 1).astype(np.float32).copy()
    )
    conv = next(node for node in masked.graph if node.outputs[0].name == "c3")
    from onnxslim.model.edit import add_initializer

    conv.resize_inputs(3)
    conv.replace_input_with(2, add_initializer(masked.graph, fitted[16].astype(np.float32), "bias"))
    pairs = [(run(model, feed)[0], run(masked, feed)[0]) for feed in held_out]
    noise = sum(((a - b) ** 2).sum() for a, b in pairs) / sum((a**2).sum() for a, _ in pairs)
    np.testing.assert_allclose(dear[1], noise, rtol=0.1)
