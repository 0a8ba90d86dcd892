"""An image with a map over it that shows where the image speaks for a class, and where for another one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.scores import Floats

Pixels = npt.NDArray[np.uint8]

_WARM, _COOL = np.array([230, 97, 1], np.float32), np.array([33, 102, 172], np.float32)
"""Orange and blue, which people with any kind of colour vision tell apart (ColorBrewer, PuOr and RdBu)."""
_OPACITY = 0.75
_GREY_SHARE = 0.75
"""How much of the image's own colours is taken away, so that they aren't mistaken for the map's."""
_WORDS = (("upper left", "top", "upper right"), ("left", "centre", "right"), ("lower left", "bottom", "lower right"))


def draw_overlay(pixels: Pixels, places: Floats) -> Pixels:
    """The image with the map over it: orange where a place is above 0, blue below; the deeper, the farther from 0.

    Args:
        pixels: (height, width, 3) uint8 RGB.
        places: (h, w) of any size; drawn smoothly, and scaled to its own largest value.
    """
    height, width = pixels.shape[:2]
    largest = max(float(np.abs(places).max()), 1e-12)
    small = Image.fromarray((places / largest).astype(np.float32))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).clip(-1, 1)[..., np.newaxis]
    grey = pixels.astype(np.float32).mean(axis=2, keepdims=True)
    base = pixels * np.float32(1 - _GREY_SHARE) + grey * np.float32(_GREY_SHARE)
    opacity = np.abs(smooth) * np.float32(_OPACITY)
    drawn: Pixels = (base * (1 - opacity) + np.where(smooth > 0, _WARM, _COOL) * opacity).round().astype(np.uint8)
    return drawn


def describe_place(places: Floats) -> str:
    """Where the map is highest, in words, such as `upper left`."""
    row, column = np.unravel_index(int(np.argmax(places)), places.shape)
    height, width = places.shape
    return _WORDS[min(2, int(3 * (row + 0.5) / height))][min(2, int(3 * (column + 0.5) / width))]
