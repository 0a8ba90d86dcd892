"""Worse copies of prepared images, as other cameras, light and software make them: for asking what the model does then.

Six kinds at three strengths, after D. Hendrycks, T. Dietterich, Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations, 2019; strengths are for images of 224x224 pixels. What is left to chance depends on the
image's key only.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.uint8]

STRENGTHS = (1, 2, 3)
_LIGHT = (0.5, 0.25, 0.1)
"""Share of the light that is left."""
_BLUR_PX = (1.5, 3.0, 6.0)
"""Standard deviation of the blur, pixels."""
_NOISE = (15.0, 35.0, 70.0)
"""Standard deviation of the noise, of 255 levels."""
_QUALITY = (20, 10, 5)
"""JPEG quality, 1 to 95."""
_DEGREES = (10.0, 25.0, 45.0)
_AREA = (0.7, 0.4, 0.2)
"""Share of the area that is left."""


def corrupt(pixels: Pixels, kind: str, strength: int, key: str) -> Pixels:
    """A worse copy of an image.

    Args:
        pixels: (224, 224, 3) uint8 RGB.
        kind: one of `KINDS`.
        strength: 1 (slight), 2 (medium), 3 (strong).
        key: the example's; seeds what is left to chance.

    Returns:
        (224, 224, 3) uint8 RGB.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}. Received: {kind!r}")
    digest = hashlib.sha256(f"{kind}/{strength}/{key}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    return KINDS[kind](pixels, strength - 1, rng)


def _darker(pixels: Pixels, step: int, _: np.random.Generator) -> Pixels:
    return _levels(pixels.astype(np.float32) * np.float32(_LIGHT[step]))


def _blurred(pixels: Pixels, step: int, _: np.random.Generator) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(_BLUR_PX[step])))


def _noisy(pixels: Pixels, step: int, rng: np.random.Generator) -> Pixels:
    noise = rng.standard_normal(pixels.shape, np.float32)
    return _levels(pixels + noise * np.float32(_NOISE[step]))


def _compressed(pixels: Pixels, step: int, _: np.random.Generator) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY[step])
    return np.asarray(Image.open(file).convert("RGB"))


def _rotated(pixels: Pixels, step: int, rng: np.random.Generator) -> Pixels:
    """Clockwise or not, by chance; the corners show the mean colour."""
    degrees = _DEGREES[step] * rng.choice([-1, 1])
    red, green, blue = (round(float(level)) for level in pixels.mean(axis=(0, 1)))
    image = Image.fromarray(pixels).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=(red, green, blue))
    return np.asarray(image)


def _cropped(pixels: Pixels, step: int, rng: np.random.Generator) -> Pixels:
    """A part of the same shape, anywhere, in full size."""
    height, width = pixels.shape[:2]
    side = math.sqrt(_AREA[step])
    left, top = rng.uniform(0, width * (1 - side)), rng.uniform(0, height * (1 - side))
    box = (left, top, left + width * side, top + height * side)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, box=box))


def _levels(values: npt.NDArray[np.float32]) -> Pixels:
    levels: Pixels = values.clip(0, 255).round().astype(np.uint8)
    return levels


KINDS: dict[str, Callable[[Pixels, int, np.random.Generator], Pixels]] = {
    "darker": _darker,
    "blurred": _blurred,
    "noisy": _noisy,
    "compressed": _compressed,
    "rotated": _rotated,
    "cropped": _cropped,
}
