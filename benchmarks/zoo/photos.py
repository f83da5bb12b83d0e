"""Thirty photographs: twenty of ImageNet (package foolbox), ten that scikit-image brings along.

Needs pillow and scikit-image.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.zoo.layout import root
from benchmarks.zoo.scoring import Array

_SCIKIT_IMAGE = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "ihc.png",
    "retina.jpg",
    "page.png",
    "coins.png",
    "camera.png",
)


def scikit_image() -> Path:
    """The folder of the data that scikit-image brings along.

    Raises:
        FileNotFoundError: it is not installed.
    """
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise FileNotFoundError("the images of scikit-image: pip install scikit-image")
    return Path(package.origin).parent / "data"


def photos() -> list[Array]:
    """Images [height, width, 3] of uint8, RGB, in a fixed order.

    Raises:
        FileNotFoundError: scikit-image is not installed.
    """
    more = [scikit_image() / name for name in _SCIKIT_IMAGE]
    paths = [
        *sorted((root() / "data" / "imagenet20").glob("*.jpg")),
        *(path for path in more if path.is_file()),
    ]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]
