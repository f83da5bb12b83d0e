"""How many channels can be removed, and whether removing them is exact.

    python -m benchmarks.coverage --zoo ROOT
    python -m benchmarks.coverage FILE.onnx...

Every model of the zoo in float, or the files that are given: the share of output channels that the analysis
finds prunable, exactly and with the residual width, of those that inputs and outputs do not fix; CPU seconds
of the discovery, without the load.  Then 30 % of every group, at random, are removed, and every tensor is
compared with that of the masked twin, on calibration inputs and, where the batch is open, on two of them at
once.  As a control, weights of the pruned model are shifted by one channel, one at a time: the comparison has
to notice each (but for weights in a branch that these inputs do not take).  Last, the discovery on generated
graphs of up to 100,000 nodes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import mlp, transformer
from benchmarks.writing import RESULTS, markdown, write
from benchmarks.zoo.layout import TASKS, check_names, model_path, task, use
from onnxslim._ir import ir
from onnxslim.analysis.channels import Channels, find_groups
from onnxslim.measure.masked_twin import check_twin
from onnxslim.measure.setting import Setting, draw_inputs
from onnxslim.model import edit, io
from onnxslim.passes.prune_channels import PruneChannels
from onnxslim.passes.separate_vectors import SeparateVectors
from onnxslim.runtime.client import open_worker

HEADER = ("model", "groups", "exact", "residual", "seconds", "tensors", "feeds", "differ", "worst", "caught")
SCALING = ("generated", "nodes", "groups", "seconds", "us / node")
RATIO, SEED, MUTANTS = 0.3, 0, 5


@dataclass(frozen=True)
class Row:
    """What was found of one model; ``caught`` of ``mutants`` shifted weights were noticed."""

    name: str
    groups: int
    coverage: float
    residual: float
    seconds: float
    tensors: int
    feeds: int
    differing: int
    worst: float
    caught: int
    mutants: int

    def cells(self) -> tuple[str, ...]:
        """As a row of the table."""
        exact = (f"{self.coverage:.3f}", f"{self.residual:.3f}", f"{self.seconds:.2f}")
        compared = (str(self.tensors), str(self.feeds), str(self.differing), f"{self.worst:.1e}")
        return (self.name, str(self.groups), *exact, *compared, f"{self.caught} / {self.mutants}")


def chosen(found: Channels) -> dict[str, list[int]]:
    """``RATIO`` of every group at random, one atom at least, and one stays."""
    random = np.random.default_rng(SEED)
    sizes = {group.key: group.size for group in found.groups}
    counts = {key: min(size - 1, max(1, round(RATIO * size))) for key, size in sizes.items()}
    return {key: sorted(random.choice(sizes[key], counts[key], replace=False).tolist()) for key in sizes}


def measured(name: str) -> Row:
    """One model of the zoo, or a file."""
    model = io.load(name if is_file(name) else model_path(name))
    SeparateVectors()(model)  # as `prune` does
    start = time.process_time()
    found = find_groups(model)
    seconds = time.process_time() - start
    residual = find_groups(model, residual=True)
    remove = chosen(found)
    pruned = model.clone()
    PruneChannels(remove)(pruned)
    given = list(feeds(name, model))
    with open_worker() as worker:
        check = check_twin(model, pruned, remove, given, worker=worker)
        mutants = list(shifted(model, pruned))
        noticed = [not check_twin(model, mutant, remove, given[:1], worker=worker).ok for mutant in mutants]
    return Row(
        Path(name).stem, len(found.groups), found.coverage, residual.coverage, seconds, check.tensors,
        check.feeds, len(check.differences), check.worst, sum(noticed), len(mutants),
    )  # fmt: skip


def feeds(name: str, model: ir.Model) -> Iterator[Mapping[str, Any]]:
    """A calibration input or a random one, and two at once where every input has an open first axis."""
    feed = draw_inputs(name, Setting()).feeds[0] if is_file(name) else next(iter(task(name).inputs(1)))
    yield feed
    shapes = [value.shape for value in model.graph.inputs if value.name in feed]
    if all(shape is not None and len(shape) and not isinstance(shape[0], int) for shape in shapes):
        yield {key: np.concatenate([array, np.flip(array, -1)]) for key, array in feed.items()}


def is_file(name: str) -> bool:
    """Whether a model is no name of the zoo."""
    return name.endswith(".onnx")


def shifted(model: ir.Model, pruned: ir.Model) -> Iterator[ir.Model]:
    """Copies, each with one shrunk weight rolled by one along an axis that shrank; spread over the model."""
    stored = {name: edit.constant_value(value) for name, value in _values(model).items()}
    places = []
    for name, value in _values(pruned).items():
        content, before = edit.constant_value(value), stored.get(name)
        if content is None or before is None or content.ndim < 2 or content.dtype.kind != "f":
            continue
        shrunk = [axis for axis in range(content.ndim) if 1 < content.shape[axis] < before.shape[axis]]
        places += [(name, axis) for axis in shrunk[:1]]
    for name, axis in places[:: max(1, len(places) // MUTANTS)][:MUTANTS]:
        mutant = pruned.clone()
        value = _values(mutant)[name]
        content = edit.constant_value(value)
        assert content is not None
        rolled = np.roll(content, 1, axis)
        if not np.array_equal(rolled, content):
            edit.replace_constant(value, rolled)
            yield mutant


def _values(model: ir.Model) -> dict[str, ir.Value]:
    """Initializers and outputs of nodes of the main graph, where all of it runs."""
    made = (value for node in model.graph for value in node.outputs)
    return {value.name: value for value in (*model.graph.initializers.values(), *made) if value.name}


def scaling() -> Iterator[tuple[str, ...]]:
    """Discovery on generated graphs: a row for each."""
    for family, depths in ((mlp, (500, 5_000, 50_000)), (transformer, (77, 770, 7_700))):
        for depth in depths:
            model = ir.from_proto(family(depth, 8))
            nodes = sum(1 for _ in model.graph)
            start = time.process_time()
            groups = len(find_groups(model).groups)
            seconds = time.process_time() - start
            yield family.__name__, str(nodes), str(groups), f"{seconds:.2f}", f"{1e6 * seconds / nodes:.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="models or files; default all in float")
    parser.add_argument("--zoo", type=Path, help="the folder that was fetched")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where coverage.md and .json go")
    parser.add_argument("--no-scaling", action="store_true", help="leave out the generated graphs")
    given = parser.parse_args(arguments)
    names = given.names or [name for name in TASKS if not name.endswith("int8")]
    if zoo := [name for name in names if not is_file(name)]:
        check_names(parser, zoo)
        if given.zoo is None:
            parser.error("--zoo tells where the models are")
        use(given.zoo)
    rows = []
    for name in names:
        rows.append(measured(name))
        print("  ".join(rows[-1].cells()), file=sys.stderr)
    text = markdown(HEADER, [row.cells() for row in rows])
    large = [] if given.no_scaling else list(scaling())
    if large:
        text += f"\n\n{markdown(SCALING, large)}"
    write(given.results, "coverage", text, {"models": rows, "scaling": large})
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
