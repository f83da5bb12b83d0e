"""Elements of HTML and SVG as text that is escaped unless it is known to be markup.

Names come from whoever made the model.  A plain ``str`` is therefore always escaped, made printable and
clipped; only what :func:`element` returns, or a :class:`Safe`, goes into the document as it is.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

from onnxslim.report.text import clip, printable

__all__ = ["SPACE", "Safe", "element", "join", "text"]

_LIMIT = 240  # characters of one text: a name can be a million long
_EMPTY = frozenset({"br", "circle", "line", "link", "meta", "rect"})


class Safe(str):
    """Markup; whatever is done to it but joining makes it a plain ``str`` again, which is escaped."""

    __slots__ = ()


SPACE = Safe(" ")  # a plain one would be stripped


def text(value: object, limit: int = _LIMIT) -> Safe:
    """Anything as harmless text.

    Example:
        >>> text("<b>\\x07")
        '&lt;b&gt;?'
    """
    return Safe(html.escape(clip(printable(str(value)), limit)))


def join(parts: Iterable[str], between: str = "") -> Safe:
    """Several parts as one; plain strings among them are escaped."""
    return Safe(between.join(part if isinstance(part, Safe) else text(part) for part in parts))


def element(tag: str, *children: str, **attributes: str | float | None) -> Safe:
    """One element; ``class_`` is written ``class`` and ``stroke_width`` ``stroke-width``; None is left out.

    Example:
        >>> element("td", "a<b", class_="n")
        '<td class="n">a&lt;b</td>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _EMPTY:
        return Safe(f"<{tag}{written}/>")
    return Safe(f"<{tag}{written}>{join(children)}</{tag}>")


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return text(value)
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
