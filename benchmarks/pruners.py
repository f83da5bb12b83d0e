"""Other pruners at the same multiply-accumulates, with and without our reconstruction on their masks.

    python -m benchmarks.pruners [NAMES...] --zoo ROOT [--macs 0.5,0.25]

Each pruner runs in a virtual environment of its own, on the simplified model, and says which channels it
would remove; of the shares that it can be asked for, the one that comes nearest to the products asked for is
taken.  ``onnxslim prune --mask`` removes them, which is exact, and leaves the other weights as they are, or
refits them; ours is asked for the same products.  A pruner that does not come near is a line with its reason.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.compress import onnxslim
from benchmarks.environments import ONNXSIM, environment
from benchmarks.pruner_peers import METHODS, Removed
from benchmarks.pruning import HEADER, Row, prune
from benchmarks.writing import RESULTS, markdown, write
from benchmarks.zoo.layout import check_names, model_path, use
from onnxslim._ir import ir
from onnxslim.analysis.channels import Channels, Mask, find_groups
from onnxslim.analysis.cost import summary
from onnxslim.model.io import load
from onnxslim.passes.prune_channels import PruneChannels

MODELS = {"mnist_resnet14": 0.25, "mnist_mobilenetv2": 0.5}
_TORCH = (
    "torch==2.14.1",
    "torchvision==0.29.1",
    "onnx2torch==1.5.15",
    "torch-pruning==1.6.1",
    "onnx==1.23.2",
)
ENVIRONMENTS: Mapping[str, tuple[str, Sequence[str]]] = {
    "Torch-Pruning": ("torch-pruning", _TORCH),
    "Torch-Pruning, global": ("torch-pruning", _TORCH),
    "onnxsim": ("onnxsim-with-onnxruntime", (ONNXSIM, "onnxruntime==1.32.0", "onnx==1.23.2")),
}
_SCRIPT = Path(__file__).with_name("pruner_peers.py")
RATIOS = [round(0.02 * step, 2) for step in range(1, 48)]
_NEAR = 0.06  # of the products


class Peer:
    """One pruner on one model.

    Args:
        python: the interpreter that has it.
        file: the simplified model.
    """

    def __init__(self, method: str, python: Path, file: Path) -> None:
        self._method, self._python, self._file = method, python, file
        self._model: ir.Model = load(file)
        self.channels: Channels = find_groups(self._model)
        self._macs = summary(self._model)["macs"]

    def at(self, macs: float) -> Mask:
        """What leaves the share of the products that is nearest to ``macs``.

        Raises:
            RuntimeError: it fails, cuts through what belongs together, or never comes near.
        """
        masks = self.masks(RATIOS)
        nearest = min(masks, key=lambda mask: abs(self.left(mask) - macs))
        if abs(self.left(nearest) - macs) > _NEAR:
            raise RuntimeError(
                f"whatever it is asked for, it leaves {self.left(nearest):.3f} of the products"
            )
        return nearest

    def left(self, mask: Mask) -> float:
        """The share of the products that a mask leaves."""
        model = self._model.clone()
        PruneChannels(mask.remove)(model)
        return float(summary(model)["macs"] / self._macs)

    def masks(self, ratios: Sequence[float]) -> list[Mask]:
        """What it removes when it is asked for shares of the channels."""
        target = self._file.with_suffix(".json")
        stay = [pin.value for pin in self.channels.pins if pin.interface]
        command = [str(self._python), "-I", str(_SCRIPT), self._method, str(self._file)]
        given = (",".join(map(str, ratios)), str(target), *stay)
        done = subprocess.run([*command, *given], check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        found = json.loads(target.read_text(encoding="utf-8"))
        return [mask_of(self.channels, removed) for removed in found]


def mask_of(channels: Channels, removed: Removed) -> Mask:
    """The atoms of our groups that are the output channels of weights.

    Raises:
        RuntimeError: two weights of one group lose different channels.
    """
    remove = {}
    for group in channels.groups:
        lost = {
            tuple(atom for atom in range(group.size) if gone.issuperset(member.indices([atom]).tolist()))
            for member in group.with_role("producer")
            if (gone := set(removed.get(member.value, ()))) and member.axis == 0
        }
        if len(lost) > 1:
            raise RuntimeError(f"it cuts through the group {group.key}")
        remove[group.key] = next(iter(lost), ())
    return Mask(remove)


def rows(name: str, macs: float, method: str, python: Path, folder: Path) -> list[Row]:
    """One pruner on one model: with the weights as they are, and refitted; and ours."""
    file, mask = folder / f"{name}_simplified.onnx", folder / f"{name}_mask.json"
    onnxslim("simplify", str(model_path(name).resolve()), "-o", str(file), "--force")
    Peer(method, python, file).at(macs).save(mask)
    use_mask = ("--mask", str(mask))
    bare = prune(name, method, macs, folder, *use_mask, "--no-reconstruct")
    fitted = prune(name, f"{method}, refitted", macs, folder, *use_mask)
    return [bare, fitted, prune(name, "ours", macs, folder, "--target-macs", f"{bare.macs}x")]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--zoo", type=Path, required=True, help="the folder that was fetched")
    parser.add_argument("--macs", type=float, help="share of the products to leave; default by model, or 0.5")
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by semicolons")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where pruners.md and .json go")
    parser.add_argument(
        "--environments", type=Path, help="where the pruners are installed; default in results"
    )
    given = parser.parse_args(arguments)
    names = given.names or list(MODELS)
    check_names(parser, names)
    use(given.zoo)
    environments = (given.environments or given.results / "environments").resolve()
    found: list[Row] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in names:
            macs = given.macs or MODELS.get(name, 0.5)
            for method in given.methods.split(";"):
                try:
                    python = environment(*ENVIRONMENTS[method], environments) / "python"
                    found += rows(name, macs, method, python, folder)
                except RuntimeError as error:
                    failed.append(f"{name}, {method}: {error}")
                    print(failed[-1], file=sys.stderr)
            table = "\n\n".join([markdown(HEADER, [row.cells() for row in found]), *failed])
            write(given.results, "pruners", table, {"rows": found, "failed": failed})
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
