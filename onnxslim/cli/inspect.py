"""``onnxslim inspect``: what a model is made of, and what differs between two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxslim.cli import calibrations, options
from onnxslim.cli import channels as channel_tables
from onnxslim.cli.files import model_path, write_text
from onnxslim.cli.reports import check_report
from onnxslim.cli.screen import Screen

if TYPE_CHECKING:
    from onnxslim.analysis.channels import Channels
    from onnxslim.analysis.difference import Change, Difference
    from onnxslim.analysis.inspection import Inspection, Interface, Stored
    from onnxslim.model.io import FileInfo
    from onnxslim.report.text import Table

__all__ = ["command"]

_MANY = 5
_ROWS = 10
_TEXT = 200  # characters of a metadata entry: some hold whole files


@click.command("inspect")
@click.argument("model")
@click.option("--diff", "other", metavar="OTHER", help="Show what changes from MODEL to this model.")
@click.option(
    "--dim",
    "dims",
    multiple=True,
    callback=options.parse_dims,
    metavar="NAME=1",
    help="Size of a symbolic dimension when counting MACs and memory; may be repeated.",
)
@click.option(
    "--channels", is_flag=True, help="Show which channels can be removed together, and which cannot."
)
@click.option(
    "--residual", is_flag=True, help="With --channels: also those that a normalisation takes statistics over."
)
@click.option("--report", metavar="FILE.html", help="With --channels: also write a page with their graph.")
@click.option("--force", is_flag=True, help="Replace an existing report.")
@options.common
def command(
    model: str,
    other: str | None,
    dims: dict[str, int],
    channels: bool,
    residual: bool,
    report: str | None,
    force: bool,
    as_json: bool,
    verbose: int,
    quiet: bool,
) -> int:
    """Show inputs, outputs, operators, sizes and cost of MODEL without running it.

    MODEL may also be the CAL.npz of `onnxslim calibrate`: then its tensors, with -v all of them.
    """
    if model == other == "-":
        raise click.UsageError("only one of the two models can come from stdin")
    if channels and other is not None:
        raise click.UsageError("--channels shows one model, --diff two")
    if residual and not channels:
        raise click.UsageError("--residual belongs to --channels")
    if report is not None and (not channels or not report.endswith(".html")):
        raise click.UsageError("--report FILE.html belongs to --channels")
    screen = Screen("inspect", as_json, verbose, quiet)
    if calibrations.is_archive(model):
        if other is not None:
            raise click.UsageError("--diff compares two models, and this is a calibration")
        screen.tables(*calibrations.shown(model, verbose))
        return 0
    if channels:
        if report is not None:
            check_report(report, (model,), force=force)
        file, groups = _channels(model, residual)
        if report is not None:
            write_text(Path(report), channel_tables.page(groups, model))
        rows, lines = channel_tables.tables(groups, verbose), channel_tables.lines(groups)
        screen.tables(list(rows), list(lines), {"input": file, "channels": groups.to_dict()})
        return 0
    file, found = _inspected(model, dims)
    body = {"input": file, **found.to_dict()}
    if other is None:
        screen.tables(list(_tables(found)), list(_lines(found)), body)
        return 0
    from onnxslim.analysis.difference import difference

    other_file, other_found = _inspected(other, dims)
    changes = difference(found, other_found)
    body["diff"] = {"other": other_file, **changes.to_dict()}
    screen.tables(list(_diff_tables(changes)), list(_diff_lines(changes)), body)
    return 0


def _inspected(model: str, dims: dict[str, int]) -> tuple[FileInfo, Inspection]:
    from dataclasses import replace

    from onnxslim.analysis.inspection import inspect
    from onnxslim.model.io import file_info, load

    with model_path(model) as path:
        loaded = load(path)
        return replace(file_info(path, loaded), path=model), inspect(loaded, dims=dims)


def _channels(model: str, residual: bool) -> tuple[FileInfo, Channels]:
    from dataclasses import replace

    from onnxslim.analysis.channels import find_groups
    from onnxslim.model.io import file_info, load
    from onnxslim.passes.separate_vectors import SeparateVectors

    with model_path(model) as path:
        loaded = load(path)
        file = replace(file_info(path, loaded), path=model)
        SeparateVectors()(loaded)  # as `prune` does: vectors that layers share by chance tie no channels
        return file, find_groups(loaded, residual=residual)


def _tables(found: Inspection) -> Iterator[Table]:
    from onnxslim.report.text import Table, number, size

    activations = found.activations
    facts = {
        "producer": found.producer or "-",
        "IR version": str(found.ir_version),
        "opsets": ", ".join(f"{_domain(domain)} {version}" for domain, version in found.opsets.items()),
        "nodes": number(found.nodes),
        "parameters": number(found.params),
        "bytes": size(found.bytes),
        "weights by type": ", ".join(f"{dtype} {size(n)}" for dtype, n in found.bytes_by_dtype.items())
        or "-",
        "MACs at batch 1": number(found.macs) + (" and more" if found.unknown_macs else ""),
        "activations at batch 1": _peak(found),
    }
    if activations.largest:
        facts["largest activation"] = f"{size(activations.largest_bytes)}: {activations.largest}"
    yield Table("Model", ("", ""), tuple(facts.items()), "ll")
    if found.metadata:
        yield Table("Metadata", ("", ""), tuple(_metadata(found.metadata)), "ll")
    ports = [("input", port) for port in found.inputs] + [("output", port) for port in found.outputs]
    rows = tuple((kind, port.name, port.dtype or "?", _shape(port.shape)) for kind, port in ports)
    yield Table("Inputs and outputs", ("", "name", "type", "shape"), rows, "llll")
    yield Table("Operators", ("operator", "count"), tuple((op, number(n)) for op, n in found.ops.items()))
    if found.heaviest:
        heaviest = tuple((name, op, number(macs)) for name, op, macs in found.heaviest)
        yield Table("Most work", ("node", "operator", "MACs"), heaviest, "llr")
    if found.heaviest_weights:
        weights = tuple((name, op, size(n)) for name, op, n in found.heaviest_weights)
        yield Table("Largest weights", ("node", "operator", "bytes"), weights, "llr")
    yield Table("Quantization", ("", ""), tuple(_quantization(found).items()), "ll")
    if found.shared_weights:
        shared = tuple(
            (each.name, _some(each.readers), size(each.saved)) for each in found.shared_weights[:_ROWS]
        )
        yield Table("Shared weights", ("weight", "read by", "bytes saved"), shared, "llr")


def _peak(found: Inspection) -> str:
    from onnxslim.report.text import size

    activations = found.activations
    if activations.peak is None:
        return f"not known, {size(activations.at_least)} at least"
    return f"{size(activations.peak)}" + (f", while {activations.at} runs" if activations.at else "")


def _metadata(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key, text in list(metadata.items())[:_ROWS]:
        yield key[:_TEXT], text if len(text) <= _TEXT else f"{text[:_TEXT]}... ({len(text)} characters)"
    if len(metadata) > _ROWS:
        yield "...", f"{len(metadata) - _ROWS} more"


def _quantization(found: Inspection) -> dict[str, str]:
    from onnxslim.report.text import number

    state = found.quantized
    rows = {"state": state.kind}
    if state.quantize or state.dequantize:
        rows["QuantizeLinear, DequantizeLinear"] = (
            f"{number(state.quantize)}, {number(state.dequantize)} "
            f"({number(state.pairs)} in pairs, {number(state.stored)} of stored tensors)"
        )
    if state.integer:
        rows["integer operators"] = ", ".join(f"{op} {number(n)}" for op, n in state.integer.items())
    if state.weight_bits:
        rows["weights (rank 2 and more)"] = ", ".join(
            f"{number(n)} of {bits} bits" for bits, n in state.weight_bits.items()
        )
    if state.products:
        rows["nodes with MACs"] = (
            f"{number(state.products)}: {number(state.quantized)} quantized, "
            f"{number(state.weight_only)} in weights only"
        )
    return rows


def _lines(found: Inspection) -> Iterator[str]:
    from onnxslim.report.text import size

    if found.unknown_ops:
        yield f"left alone, because nothing is known about them: {', '.join(found.unknown_ops)}"
    if found.unknown_macs:
        count = len(found.unknown_macs)
        yield f"MACs of {count} nodes depend on open dimensions (--dim): {_some(found.unknown_macs)}"
    reasons: dict[str, list[str]] = {}
    for name, reason in found.activations.unknown.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1]))[:_MANY]:
        yield f"memory of {len(names)} activations is not known, {reason}: {_some(names)}"
    for name, node in found.random_outputs.items():
        yield f"output {name} is random, because of {node}"
    if found.shared_weights:
        saved = sum(shared.saved for shared in found.shared_weights)
        yield f"weights that several nodes read: {len(found.shared_weights)}, which saves {size(saved)}"


def _diff_tables(found: Difference) -> Iterator[Table]:
    from onnxslim.report.text import Table, number, size

    shown = {
        "nodes": ("nodes", number),
        "params": ("parameters", number),
        "bytes": ("bytes", size),
        "macs": ("MACs at batch 1", number),
        "activations": ("activations at batch 1", size),
        "tensors": ("stored tensors", number),
    }
    rows = [_sides(label, found.sizes[key], show) for key, (label, show) in shown.items()]
    rows += [_sides(f"{dtype} weights", change, size) for dtype, change in found.bytes_by_dtype.items()]
    yield Table("Model", ("", "before", "after", "after / before"), tuple(rows))
    ports = [("input", item) for item in found.inputs.items()]
    ports += [("output", item) for item in found.outputs.items()]
    if ports:
        changed = tuple((kind, name, _port(c.before), _port(c.after)) for kind, (name, c) in ports)
        yield Table("Inputs and outputs", ("", "name", "before", "after"), changed, "llll")
    words: list[tuple[str, Change[Any]]] = [
        (f"opset {_domain(domain)}", change) for domain, change in found.opsets.items()
    ]
    if found.quantization is not None:
        words.append(("quantization", found.quantization))
    words += [(name.replace("_", " "), c) for name, c in found.quantized.items() if name != "kind"]
    if words:
        rows = [(label, _text(change.before), _text(change.after)) for label, change in words]
        yield Table("Opsets and quantization", ("", "before", "after"), tuple(rows))
    if found.ops:
        counts = tuple((op, number(c.before), number(c.after)) for op, c in found.ops.items())
        yield Table("Operators", ("operator", "before", "after"), counts)
    for title, changes in (("added", found.added), ("removed", found.removed), ("changed", found.changed)):
        if changes.count:
            named = [(name, _tensor(c.before), _tensor(c.after)) for name, c in changes.named.items()]
            if changes.count > len(named):
                named.append(("...", f"{changes.count - len(named)} more", ""))
            yield Table(f"Tensors {title}", ("name", "before", "after"), tuple(named), "lll")


def _diff_lines(found: Difference) -> Iterator[str]:
    if not any((found.inputs, found.outputs, found.opsets, found.ops, found.quantized)):
        yield "the same interface, operator sets, operators and state of quantization"
    yield "contents of weights are not compared; onnxslim compare runs both models"


def _sides(label: str, change: Change[int], show: Any) -> tuple[str, ...]:
    before, after = change.before, change.after
    ratio = f"{after / before:.3f}" if before and after is not None else "-"
    return (label, *("-" if side is None else show(side) for side in (before, after)), ratio)


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {count:,}" for key, count in value.items()) or "-"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _port(port: Interface | None) -> str:
    return "-" if port is None else f"{port.dtype or '?'} {_shape(port.shape)}"


def _tensor(tensor: Stored | None) -> str:
    return "-" if tensor is None else f"{tensor.dtype} {_shape(tensor.shape)}"


def _domain(domain: str) -> str:
    return domain or "ai.onnx"


def _some(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:_MANY]) + (", ..." if len(names) > _MANY else "")


def _shape(shape: tuple[int | str | None, ...] | None) -> str:
    if shape is None:
        return "?"
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
