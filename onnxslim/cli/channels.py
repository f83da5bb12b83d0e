"""``onnxslim inspect --channels``: which channels can be removed together, and why others cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxslim.analysis.channels import Channels, Group
    from onnxslim.report.text import Table

__all__ = ["lines", "page", "tables"]

_ROWS = 20
_NAMES = 3
_DRAWN = 120  # groups in the graph


def tables(found: Channels, verbose: int) -> Iterator[Table]:
    """Groups by what an atom is worth and pins by reason; with ``-v`` every group, member and pin."""
    from onnxslim.report.text import Table, number

    shown = {
        "prunable output channels": number(found.prunable),
        "fixed by inputs and outputs": number(found.fixed),
        "all": number(found.total),
        "coverage": f"{found.coverage:.3f}",
    }
    yield Table("Channels", ("", ""), tuple(shown.items()))
    groups = found.groups if verbose else found.groups[:_ROWS]
    rows = [
        (group.key, number(group.size), number(group.channels), _roles(group, verbose)) for group in groups
    ]
    if len(found.groups) > len(rows):
        rows.append(("...", "", "", f"{len(found.groups) - len(rows)} more groups; -v shows all"))
    yield Table("Groups", ("group", "size", "channels of one", "where"), tuple(rows), "lrrl")
    if verbose:
        pins = [
            (f"{pin.value}:{pin.axis}:{pin.start}", number(pin.size), pin.reason, pin.node)
            for pin in found.pins
        ]
        yield Table("Pinned", ("tensor", "channels", "why", "at"), tuple(pins), "lrll")
        return
    reasons: dict[str, int] = {}
    for pin in found.pins:
        reasons[pin.reason] = reasons.get(pin.reason, 0) + pin.size
    counted = sorted(reasons.items(), key=lambda item: -item[1])
    yield Table("Pinned", ("why", "channels"), tuple((why, number(size)) for why, size in counted[:_ROWS]))


def lines(found: Channels) -> Iterator[str]:
    """What the figures mean."""
    yield f"{len(found.groups)} groups: {found.coverage:.1%} of the channels that the interface does not fix"


def page(found: Channels, path: str) -> str:
    """The same as an HTML page, with the graph of the groups."""
    from onnxslim.report import page as pages
    from onnxslim.report.blocks import figure, listed, table
    from onnxslim.report.group_graph import Box, group_graph
    from onnxslim.report.markup import element, join

    pairs = zip(found.groups, found.edges, strict=True)
    boxes = [Box(group.key, group.size, feeds) for group, feeds in pairs][:_DRAWN]
    caption = "An arc leads from a group to one whose channels a weight makes of its own."
    if len(found.groups) > len(boxes):
        caption += f" {len(found.groups) - len(boxes):,} more groups are left out."
    first, groups, pinned = tables(found, 0)
    sections = [("Coverage", join([table(first), listed(lines(found))]))]
    if boxes:
        sections += [("Graph", figure(group_graph(boxes), caption)), ("Groups", table(groups))]
    if found.pins:
        sections.append(("Pinned", table(pinned)))
    title = "onnxslim inspect --channels"
    header = (element("h1", title), element("p", element("code", path), class_="files"))
    return pages.page(title, header, sections)


def _roles(group: Group, verbose: int) -> str:
    parts = []
    for role in ("producer", "consumer", "activation", "shape"):
        names = list(dict.fromkeys(member.value for member in group.members if member.role == role))
        if names:
            some = names if verbose else names[:_NAMES]
            more = f", {len(names) - len(some)} more" if len(names) > len(some) else ""
            parts.append(f"{role}: {', '.join(some)}{more}" if role != "activation" or verbose else
                         f"{len(names)} activations")  # fmt: skip
    return "; ".join(parts)
