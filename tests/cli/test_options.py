from __future__ import annotations

import click
import pytest

from onnxslim.cli.options import (
    parse_assignments,
    parse_dims,
    parse_input_shapes,
    parse_providers,
    parse_size,
)


def test_input_shapes() -> None:
    assert parse_input_shapes(None, None, ("x:1,3,224,224", "a:b:7")) == {"x": (1, 3, 224, 224), "a:b": (7,)}
    assert parse_input_shapes(None, None, ("scalar:",)) == {"scalar": ()}


@pytest.mark.parametrize("text", ["", ":", "x", ":1,2", "x:1,,2", "x:0", "x:-1", "x:1.5", "x:a"])
def test_bad_input_shapes(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_input_shapes(None, None, (text,))


def test_dims() -> None:
    assert parse_dims(None, None, ("batch=1", "a=b=3")) == {"batch": 1, "a=b": 3}


@pytest.mark.parametrize("text", ["", "=1", "b=", "b=0", "b=-1", "b=1.0", "b=\u00b2", "b"])
def test_bad_dims(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_dims(None, None, (text,))


def test_assignments() -> None:
    given = ("fold-constants.max-bytes=64", "fold-constants.x=a=b.c", "quantize.mode=")
    assert parse_assignments(None, None, given) == {
        "fold-constants": {"max_bytes": "64", "x": "a=b.c"},
        "quantize": {"mode": ""},
    }


@pytest.mark.parametrize("text", ["", "a", "a=b", "a.b", ".b=c", "a.=c"])
def test_bad_assignments(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_assignments(None, None, (text,))


def test_providers() -> None:
    assert parse_providers(None, None, "cuda, MyExecutionProvider,") == ("cuda", "MyExecutionProvider")
    with pytest.raises(click.BadParameter):
        parse_providers(None, None, " , ")


def test_sizes() -> None:
    assert parse_size(None, None, "1.5kB") == 1500
    assert parse_size(None, None, None) is None
    for text in ("0.5x", "-3", "many"):
        with pytest.raises(click.BadParameter, match="500MB"):
            parse_size(None, None, text)
