"""A folder of images with the preprocessing that the model was trained with."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnxslim.calibration.conform import numpy_dtype
from onnxslim.calibration.sources.base import Sample, regular_file, suggest
from onnxslim.errors import CalibrationError, DependencyError, OptionError
from onnxslim.runtime.values import TensorInfo

__all__ = ["IMAGE_SUFFIXES", "ImageFolder", "ImageSpec"]

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_MAX_PIXELS = 100_000_000  # a decompression bomb beyond


@dataclass(frozen=True)
class ImageSpec:
    """How an image becomes a model input: resize, scale, normalise, lay out.

    The value of a channel is ``(pixel * scale - mean) / std`` with pixels in 0..255.

    Args:
        size: (height, width) in pixels; default: the model's fixed input size.
        scale: factor for the pixels, before mean and std.
        mean, std: one number, or one per channel in the order of ``channels``.
        layout: where the channels stand; default: the model's axis of size 1 or 3.
        channels: order of the channels, or one grey channel; default: by the model's number of channels.
        resize: "stretch" to the size, or "crop": shorter side to the size, then the middle.

    Example:
        >>> ImageSpec.parse("size=224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225").size
        (224, 224)
    """

    size: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["nchw", "nhwc"] | None = None
    channels: Literal["rgb", "bgr", "gray"] | None = None
    resize: Literal["stretch", "crop"] = "stretch"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("layout", (None, "nchw", "nhwc")),
            ("channels", (None, "rgb", "bgr", "gray")),
            ("resize", ("stretch", "crop")),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise OptionError(
                    f"'{value}' is no {name} of images", hint=suggest(str(value), filter(None, allowed))
                )
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise OptionError(f"the image size {self.size} is not (height, width)")
        if 0.0 in self.std or not np.isfinite([self.scale, *self.mean, *self.std]).all():
            raise OptionError("scale, mean and std of images must be finite and std not zero")

    @classmethod
    def parse(cls, text: str) -> ImageSpec:
        """From ``size=HxW,scale=1/255,mean=a/b/c,std=a/b/c,layout=nchw,channels=rgb,resize=crop``.

        Raises:
            OptionError: an unknown key or a value that does not parse.
        """
        return cls.of(dict(part.partition("=")[::2] for part in text.split(",") if part.strip()))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ImageSpec:
        """From options whose values may be strings, as in :meth:`parse`, numbers or lists."""
        values: dict[str, Any] = {}
        known = [field.name for field in dataclasses.fields(cls)]
        for key, value in options.items():
            key = key.strip()
            if key not in known:
                raise OptionError(f"unknown image option '{key}'", hint=suggest(key, known))
            try:
                values[key] = _coerce(key, value)
            except (TypeError, ValueError, ZeroDivisionError) as error:
                raise OptionError(f"bad value '{value}' of the image option '{key}'") from error
        return cls(**values)

    def resolve(self, info: TensorInfo) -> ImageSpec:
        """The spec with what was left open taken from the model's input.

        Raises:
            OptionError: the input is not an image, or leaves the size open too.
        """
        shape = info.shape
        if shape is None or len(shape) != 4:
            raise OptionError(
                "images go into an input of four axes",
                where=f"input '{info.name}'",
                hint="write a function that returns feeds: --data feeds.py:function",
            )
        layout = self.layout or ("nhwc" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "nchw")
        depth, height, width = (shape[i] for i in ((1, 2, 3) if layout == "nchw" else (3, 1, 2)))
        size = self.size
        if size is None:
            if not isinstance(height, int) or not isinstance(width, int):
                raise OptionError(
                    "the model leaves the image size open",
                    where=f"input '{info.name}'",
                    hint="give it: size=HEIGHTxWIDTH",
                )
            size = (height, width)
        channels = self.channels or ("gray" if depth == 1 else "rgb")
        count = 1 if channels == "gray" else 3
        if (isinstance(depth, int) and depth != count) or {len(self.mean), len(self.std)} - {1, count}:
            raise OptionError(
                f"{channels} has {count} channels; mean, std and the model must agree",
                where=f"input '{info.name}'",
            )
        return dataclasses.replace(self, size=size, layout=layout, channels=channels)


def _coerce(key: str, value: Any) -> Any:
    if key in ("layout", "channels", "resize"):
        return str(value).strip().lower()
    if key == "size":
        parts = value.lower().split("x") if isinstance(value, str) else np.atleast_1d(value).tolist()
        sizes = tuple(int(part) for part in parts)
        return sizes * 2 if len(sizes) == 1 else sizes
    if key == "scale":
        top, _, bottom = str(value).partition("/")
        return float(top) / float(bottom or 1)
    parts = value.split("/") if isinstance(value, str) else np.atleast_1d(value).tolist()
    return tuple(float(part) for part in parts)


class ImageFolder:
    """The images of a folder in the order of their names, each one feed.

    Raises:
        DependencyError: pillow is not installed.
        OptionError: the model has several inputs, or the spec does not fit its input.
    """

    sized = True

    def __init__(
        self, files: Sequence[Path], where: str, inputs: Sequence[TensorInfo], spec: ImageSpec
    ) -> None:
        try:
            import PIL.Image
        except ImportError as error:
            raise DependencyError(
                "reading images needs pillow", hint="pip install 'onnxslim-passes[images]'"
            ) from error
        self._pil = PIL.Image
        if len(inputs) != 1:
            raise OptionError(
                f"a folder of images feeds one input, the model has {len(inputs)}",
                hint="write a function that returns feeds: --data feeds.py:function",
            )
        self._files = list(files)
        self._info = inputs[0]
        self._spec = spec.resolve(self._info)
        height, width = self._spec.size or (0, 0)
        self.description = f"{where}: {len(self._files)} images as {self._spec.channels} {height}x{width}"

    def __len__(self) -> int:
        return len(self._files)

    def read(self, indices: Sequence[int] | None = None) -> Iterator[Sample]:
        for i in range(len(self._files)) if indices is None else indices:
            path = regular_file(self._files[i])
            yield Sample(i, str(path), {self._info.name: self._load(path)})

    def _load(self, path: Path) -> np.ndarray:
        spec = self._spec
        try:
            with warnings.catch_warnings(), self._pil.open(path) as opened:
                warnings.simplefilter("ignore")  # pillow's own limit only warns; ours refuses
                if opened.width * opened.height > _MAX_PIXELS:
                    raise CalibrationError(
                        f"the image has {opened.width}x{opened.height} pixels", where=str(path)
                    )
                image = self._resize(opened.convert("L" if spec.channels == "gray" else "RGB"))
        except CalibrationError:
            raise
        except Exception as error:  # pillow raises nearly anything on a damaged file
            raise CalibrationError(f"the image cannot be read: {error}", where=str(path)) from error
        pixels = np.asarray(image, dtype=np.float32).reshape(*(spec.size or ()), -1)
        if spec.channels == "bgr":
            pixels = pixels[..., ::-1]
        target = numpy_dtype(self._info)
        if target is not None and target.kind in "iu":  # the model normalises by itself
            return self._arrange(pixels).astype(target)
        mean, std = (np.array(numbers, np.float32) for numbers in (spec.mean, spec.std))
        values = (pixels * np.float32(spec.scale) - mean) / std
        return self._arrange(values)

    def _resize(self, image: Any) -> Any:
        height, width = self._spec.size or (0, 0)
        bilinear = self._pil.Resampling.BILINEAR
        if self._spec.resize == "stretch":
            return image.resize((width, height), bilinear)
        ratio = max(height / image.height, width / image.width)
        wide, high = max(width, round(image.width * ratio)), max(height, round(image.height * ratio))
        left, top = (wide - width) // 2, (high - height) // 2
        return image.resize((wide, high), bilinear).crop((left, top, left + width, top + height))

    def _arrange(self, values: np.ndarray) -> np.ndarray:
        if self._spec.layout == "nchw":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values)[None]
