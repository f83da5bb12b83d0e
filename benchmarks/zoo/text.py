"""Rendered text: lines and pages in eight fonts, with noise.

Needs pillow, and Debian's fonts-dejavu, fonts-liberation and fonts-freefont-ttf; the words are those of the
GPL as every Debian system has it.  Other fonts or words make other images, so that scores differ.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.zoo.scoring import Array

Random = np.random.RandomState
Box = tuple[float, float, float, float]

_FONTS = Path("/usr/share/fonts/truetype")
_FACES = (
    "dejavu/DejaVuSans.ttf",
    "dejavu/DejaVuSerif.ttf",
    "liberation/LiberationSans-Regular.ttf",
    "liberation/LiberationSerif-Bold.ttf",
    "dejavu/DejaVuSansMono.ttf",
    "freefont/FreeSerifItalic.ttf",
    "liberation/LiberationMono-Regular.ttf",
    "freefont/FreeSans.ttf",
)
_WORDS = Path("/usr/share/common-licenses/GPL-3")


def font(number: int, size: int) -> ImageFont.FreeTypeFont:
    """The font of that number, modulo eight.

    Raises:
        FileNotFoundError: it is not installed.
    """
    path = _FONTS / _FACES[number % len(_FACES)]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: install fonts-dejavu, fonts-liberation and fonts-freefont-ttf")
    return ImageFont.truetype(str(path), size)


@functools.cache
def _words() -> tuple[str, ...]:
    return tuple(word for word in _WORDS.read_text(encoding="utf-8").split() if word.isascii())


def phrase(random: Random, count: int) -> str:
    """That many consecutive words from a random place."""
    words = _words()
    start = random.randint(0, len(words) - count)
    return " ".join(words[start : start + count])


def text_line(random: Random, text: str, face: int, size: int, noise: float) -> Array:
    """An image [height, width, 3] of uint8 that holds a line of dark text on a light ground."""
    chosen = font(face, size)
    left, top, right, bottom = chosen.getbbox(text)
    ground = _colour(random, 200, 256)
    image = Image.new("RGB", (int(right - left) + 16, int(bottom - top) + 14), ground)
    ImageDraw.Draw(image).text((8 - left, 7 - top), text, font=chosen, fill=_colour(random, 0, 90))
    pixels = np.asarray(image).astype(np.float32)
    return np.clip(pixels + random.randn(*pixels.shape) * noise, 0, 255).astype(np.uint8)


def page(random: Random, size: int = 640) -> tuple[Array, list[Box]]:
    """An image [size, size, 3] of uint8 with four to nine lines of text, and the boxes of the lines."""
    image = Image.new("RGB", (size, size), _colour(random, 215, 256))
    draw = ImageDraw.Draw(image)
    y: float = random.randint(8, 40)
    face = random.randint(0, 99)
    boxes: list[Box] = []
    for _ in range(random.randint(4, 10)):
        height = int(random.randint(18, 40))
        chosen = font(face, height)
        text = phrase(random, 8)
        x = int(random.randint(10, 60))
        while chosen.getlength(text) > size - x - 10 and " " in text:
            text = text.rsplit(" ", 1)[0]
        box = draw.textbbox((x, int(y)), text, font=chosen)
        if box[3] > size - 8:
            break
        draw.text((x, int(y)), text, font=chosen, fill=_colour(random, 0, 80))
        boxes.append(box)
        y += height * random.uniform(1.5, 2.6)
    noisy = np.asarray(image) + random.randn(size, size, 3) * 6
    return np.clip(noisy, 0, 255).astype(np.uint8), boxes


def resize(image: Array, width: int, height: int) -> Array:
    """Bilinear resizing of an image [height, width, 3] of uint8."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def planes(image: Array) -> Array:
    """[height, width, channels] -> [1, channels, height, width] of float32."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None]).astype(np.float32)


def _colour(random: Random, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in random.randint(low, high, 3))
    return red, green, blue
