"""Images as `data:` addresses, which are part of a page or a Markdown text."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

_JPEG_QUALITY = 85


def thumbnail(pixels: npt.NDArray[np.uint8], side_px: int) -> str:
    """An image (height, width, 3), RGB, as a JPEG whose longer side is at most `side_px`.

    It is made from pixels only, so it contains no metadata of the original.
    """
    image = Image.fromarray(pixels)
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return _jpeg(image, _JPEG_QUALITY)


def jpeg(pixels: npt.NDArray[np.uint8], quality: int) -> str:
    """An image (height, width, 3), RGB, as a JPEG of the same size."""
    return _jpeg(Image.fromarray(pixels), quality)


def _jpeg(image: Image.Image, quality: int) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return _data_uri("image/jpeg", file.getvalue())


def drawing(svg: str) -> str:
    return _data_uri("image/svg+xml", svg.encode())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
