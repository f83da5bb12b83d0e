"""Folders of images against a computation by hand."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxslim.calibration.data import ImageSpec, open_feeds
from onnxslim.errors import CalibrationError, DependencyError, OptionError
from onnxslim.runtime.values import TensorInfo as Info

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(1)
NCHW = Info("x", "float32", (None, 3, 6, 8))


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    pixels = [RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8) for _ in range(3)]
    for i, array in enumerate(pixels):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path, pixels


def test_normalisation_and_layout(folder: tuple[Path, list[np.ndarray]]) -> None:
    path, pixels = folder
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.1])
    expected = [((p / 255.0 - mean) / std) for p in pixels]
    text = "mean=0.4/0.5/0.6,std=0.2/0.3/0.1"
    for feed, want in zip(open_feeds(path, [NCHW], images=text), expected, strict=True):
        assert feed["x"].dtype == np.float32
        np.testing.assert_allclose(feed["x"], want.transpose(2, 0, 1)[None], rtol=1e-5, atol=1e-5)
    nhwc = Info("x", "float32", (None, None, None, 3))
    options = {"size": [6, 8], "mean": [0.4, 0.5, 0.6], "std": (0.2, 0.3, 0.1)}
    for feed, want in zip(open_feeds(path, [nhwc], images=options), expected, strict=True):
        np.testing.assert_allclose(feed["x"], want[None], rtol=1e-5, atol=1e-5)


def test_channel_order_and_raw_pixels(folder: tuple[Path, list[np.ndarray]]) -> None:
    path, pixels = folder
    feeds = open_feeds(path, [NCHW], images=ImageSpec(scale=1.0, channels="bgr"))
    np.testing.assert_array_equal(next(iter(feeds))["x"][0, 0], pixels[0][..., 2])
    raw = Info("x", "uint8", (1, 6, 8, 3))
    feed = next(iter(open_feeds(path, [raw], images=ImageSpec(mean=(0.5,)))))
    np.testing.assert_array_equal(feed["x"][0], pixels[0], strict=True)
    gray = next(iter(open_feeds(path, [Info("x", "float32", (1, 1, 6, 8))], images="scale=1")))
    luma = pixels[0] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(gray["x"][0, 0], luma, atol=1.0)


def test_resizing(folder: tuple[Path, list[np.ndarray]]) -> None:
    path, pixels = folder
    square = Info("x", "float32", (1, 3, "h", "w"))
    feed = next(iter(open_feeds(path, [square], images="size=6,scale=1,resize=crop")))
    np.testing.assert_array_equal(feed["x"][0], pixels[0][:, 1:7].transpose(2, 0, 1))  # the middle
    assert next(iter(open_feeds(path, [square], images="size=4x5")))["x"].shape == (1, 3, 4, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sise=3", "unknown image option 'sise'"),
        ("size=3x", "bad value"),
        ("size=0", "not \\(height, width\\)"),
        ("std=0", "std not zero"),
        ("mean=1/2", "must agree"),
        ("channels=gray", "must agree"),
        ("channels=rbg", "'rbg' is no channels"),
        ("resize=fit", "'fit' is no resize"),
        ("scale=1/0", "bad value"),
    ],
)
def test_bad_options_are_named(folder: tuple[Path, list[np.ndarray]], text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        open_feeds(folder[0], [NCHW], images=text)


def test_what_cannot_be_known_is_asked_for(folder: tuple[Path, list[np.ndarray]], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="preprocessing"):
        open_feeds(folder[0], [NCHW])
    with pytest.raises(OptionError, match="size open"):
        open_feeds(folder[0], [Info("x", "float32", (1, 3, None, None))], images="scale=1")
    with pytest.raises(OptionError, match="four axes"):
        open_feeds(folder[0], [Info("x", "float32", (1, 3))], images="scale=1")
    with pytest.raises(OptionError, match="the model has 2"):
        open_feeds(folder[0], [NCHW, NCHW], images="scale=1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CalibrationError, match="neither"):
        open_feeds(tmp_path / "empty", [NCHW], images="scale=1")


def test_broken_images_are_named(folder: tuple[Path, list[np.ndarray]]) -> None:
    (folder[0] / "9.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(CalibrationError, match="cannot be read") as caught:
        list(open_feeds(folder[0], [NCHW], images="scale=1"))
    assert "9.png" in str(caught.value)


def test_without_pillow_the_pip_line_is_given(
    folder: tuple[Path, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(DependencyError, match="pillow") as caught:
        open_feeds(folder[0], [NCHW], images="scale=1")
    assert caught.value.hint is not None and "pip install" in caught.value.hint
