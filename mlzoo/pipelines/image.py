"""Images: data URLs or base64 as pixels of one size, normalised.

A picture is measured by its header before a pixel of it is decoded: a file of a few kilobytes may hold a picture of
gigabytes. Knows no model.
"""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import attrs
import numpy as np
from PIL import Image, UnidentifiedImageError

from mlzoo.errors import TooLarge
from mlzoo.pipelines.pipeline import Array, Example, Pipeline, Row, Shapes, wrong

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
DATA_URL = "data:image/"
Image.MAX_IMAGE_PIXELS = None  # It warns of bombs and raises, by a bound of its own; ours is told to who sent one.
_positive = attrs.validators.ge(1)


@attrs.frozen
class ImageOptions:
    """The size that pictures are brought to, their channels (1: grey, 3: RGB), and what a picture may hold at most."""

    height: int = attrs.field(default=32, validator=_positive)
    width: int = attrs.field(default=32, validator=_positive)
    channels: int = attrs.field(default=3, validator=attrs.validators.in_((1, 3)))
    mean: tuple[float, ...] = (0.5,)  # of each channel, or of all; subtracted from 0..1
    deviation: tuple[float, ...] = (0.5,)  # which it is divided by then
    most_pixels: int = attrs.field(default=20_000_000, validator=_positive)
    most_bytes: int = attrs.field(default=10_000_000, validator=_positive)


class ImagePipeline(Pipeline):
    """``"data:image/png;base64,..."`` or base64 alone, also as ``{"image": ...}``: pixels ``[rows, c, h, w]`` float32.

    Pictures are scaled to the size (bilinear, antialiased), not cut. A picture that moves is read by its first frame.
    """

    Options = ImageOptions

    def read_one(self, value: Any, path: str) -> Example:
        """Read one picture."""
        if isinstance(value, dict):
            if set(value) != {"image"}:
                raise wrong(path, 'a picture in base64, or {"image": ...}')
            value, path = value["image"], f"{path}.image"
        if not isinstance(value, str):
            raise wrong(path, "a picture: a data URL, or base64")
        return Example((Row({"pixels": self._pixels(self._bytes(value, path), path)}),))

    def shapes(self) -> Shapes:
        """Return the size of the pixels."""
        return Shapes(pixels=(self.options.channels, self.options.height, self.options.width))

    def why(self) -> tuple[str, ...]:
        """Return what becomes of pictures."""
        return (f"pictures are scaled to {self.options.width} x {self.options.height}",)

    def _bytes(self, value: str, path: str) -> bytes:
        if value.startswith("data:"):
            head, _, value = value.partition(",")
            if not head.startswith(DATA_URL) or not head.endswith(";base64"):
                raise wrong(path, f"a data URL that begins {DATA_URL}...;base64,")
        size_bytes = len(value) * 3 // 4
        if size_bytes > self.options.most_bytes:
            told = f"{path} is a picture of {size_bytes} bytes, {self.options.most_bytes} are allowed: make it smaller"
            raise TooLarge(told, limit=self.options.most_bytes, got=size_bytes)
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise wrong(path, "base64 (RFC 4648), and this is none") from None

    def _pixels(self, data: bytes, path: str) -> Array:
        options = self.options
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:  # reads the header alone
                size = image.width * image.height
                if size > options.most_pixels:
                    told = f"{path} is a picture of {image.width} x {image.height}, which is {size} pixels"
                    remedy = f"{options.most_pixels} are allowed: make it smaller"
                    raise TooLarge(f"{told}; {remedy}", limit=options.most_pixels, got=size)
                mode = "L" if options.channels == 1 else "RGB"
                small = image.convert(mode).resize((options.width, options.height), Image.Resampling.BILINEAR)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
            # A decoder raises what it likes about bytes that are none of its own.
            raise wrong(path, f"a whole picture, one of {', '.join(FORMATS)}") from None
        pixels = np.asarray(small, np.float32).reshape(options.height, options.width, options.channels) / 255
        mean, deviation = np.array(options.mean, np.float32), np.array(options.deviation, np.float32)
        return np.ascontiguousarray(((pixels - mean) / deviation).transpose(2, 0, 1))
