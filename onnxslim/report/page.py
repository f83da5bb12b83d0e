"""One HTML file that loads nothing: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources

from onnxslim.report.markup import Safe, element

__all__ = ["page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # even a mistake here loads nothing


def page(title: str, header: Sequence[str], sections: Sequence[tuple[str, Safe]]) -> str:
    """A whole document; ends with a newline.

    Args:
        title: in the window's frame.
        header: markup above all sections.
        sections: heading and body of each that is not empty.

    Example:
        >>> page("t", [], [("Part", element("p", "a<b"))]).count("a&lt;b")
        1
    """
    ids = {name: name.lower().replace(" ", "-") for name, _ in sections}
    contents = [element("a", name, href=f"#{ids[name]}") for name, _ in sections]
    main = [
        element("section", element("h2", name), body, id_=ids[name], class_="part") for name, body in sections
    ]
    found = element(
        "html",
        element("head", *_head(title)),
        element(
            "body",
            element("header", *header),
            element("nav", *contents, aria_label="Contents") if len(contents) > 2 else "",
            element("main", *main),
        ),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{found}\n"


def _head(title: str) -> Iterator[Safe]:
    style = resources.files("onnxslim.report").joinpath("style.css").read_text(encoding="utf-8")
    yield element("meta", charset="utf-8")
    yield element("meta", http_equiv="Content-Security-Policy", content=_POLICY)
    yield element("meta", name="viewport", content="width=device-width, initial-scale=1")
    yield element("meta", name="color-scheme", content="light dark")
    yield element("title", title)
    yield element("link", rel="icon", href="data:,")
    yield element("style", Safe(style))
