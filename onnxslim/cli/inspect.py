"""``onnxslim inspect``: what a model is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from onnxslim.cli import options
from onnxslim.cli.files import model_path
from onnxslim.cli.screen import Screen

if TYPE_CHECKING:
    from onnxslim.analysis.inspection import Inspection
    from onnxslim.report.tables import Table

__all__ = ["command"]

_MANY = 5


@click.command("inspect")
@click.argument("model")
@options.common
def command(model: str, as_json: bool, verbose: int, quiet: bool) -> int:
    """Show inputs, outputs, operators, sizes and cost of MODEL without running it."""
    screen = Screen("inspect", as_json, verbose, quiet)
    from dataclasses import replace

    from onnxslim.analysis.inspection import inspect

    with model_path(model) as path:
        found = inspect(path)
    if found.file is not None:
        found = replace(found, file=replace(found.file, path=model))
    body = found.to_dict()
    screen.tables(list(_tables(found)), list(_lines(found)), {"input": body.pop("file"), **body})
    return 0


def _tables(found: Inspection) -> Iterator[Table]:
    from onnxslim.report.tables import Table, number, size

    facts = {
        "producer": found.producer or "-",
        "IR version": str(found.ir_version),
        "opsets": ", ".join(f"{domain} {version}" for domain, version in found.opsets.items()),
        "nodes": number(found.nodes),
        "subgraphs, functions": f"{found.subgraphs}, {found.functions}",
        "parameters": number(found.params),
        "bytes": size(found.bytes),
        "weights by type": ", ".join(f"{dtype} {size(n)}" for dtype, n in found.bytes_by_dtype.items())
        or "-",
        "MACs": number(found.macs) + (" and more" if found.macs and found.unknown_macs else ""),
    }
    yield Table("Model", ("", ""), tuple(facts.items()), text=True)
    ports = [("input", port) for port in found.inputs] + [("output", port) for port in found.outputs]
    rows = tuple(
        (kind, port.name, port.dtype, "?" if port.shape is None else _shape(port.shape))
        for kind, port in ports
    )
    yield Table("Inputs and outputs", ("", "name", "type", "shape"), rows, text=True)
    yield Table("Operators", ("operator", "count"), tuple((op, number(n)) for op, n in found.ops.items()))
    heaviest = tuple((name, size(n)) for name, n in found.heaviest.items())
    yield Table("Largest weights", ("tensor", "bytes"), heaviest)


def _lines(found: Inspection) -> Iterator[str]:
    if found.unknown_ops:
        yield f"left alone, because nothing is known about them: {', '.join(found.unknown_ops)}"
    if found.unknown_macs:
        some = ", ".join(found.unknown_macs[:_MANY]) + (", ..." if len(found.unknown_macs) > _MANY else "")
        yield f"MACs of {len(found.unknown_macs)} nodes depend on open dimensions: {some}"


def _shape(shape: tuple[int | str | None, ...]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
