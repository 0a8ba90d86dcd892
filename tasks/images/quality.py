"""Quality scores of a decoded image, for a policy to judge: dark, overexposed, low contrast, blurred, one colour.

The scores follow CleanVision (cleanlab/cleanvision, `image_property.py`: brightness percentiles, entropy, the variance
of edges). They are computed here in whole numbers until the last step, so that they are the same on every machine. As
in CleanVision, brightness is judged by the 99th percentile (a dark image with a bright lamp isn't dark) and by the 5th
(an image on white paper isn't overexposed if something on it is black).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.images.decoding import Pixels
from tasks.images.image_size import IMAGE_SIZE_PX

if TYPE_CHECKING:
    from tasks.settings import Prepare

VERSION = 1
"""Part of the recipe of every store of the scores. Raise it when one of them changes."""

_DIGITS = 4
_COLOUR_LEVELS, _COLOUR_SHIFT = 16, 4
_LEVELS = np.arange(256)


def scores(pixels: Pixels) -> dict[str, float]:
    """The scores of an image (224, 224, 3) uint8 RGB, rounded to 4 decimals.

    Returns:
        light: mean luminance, 0 (black) ... 1 (white).
        light_p5, light_p99: percentiles of the luminance, 0...1.
        contrast: standard deviation of the luminance divided by the largest possible one, 0...1.
        sharpness: variance of the Laplacian divided by the variance of the luminance, 0...72, of the image stretched
            to 224x224. It doesn't depend on contrast. Blur lowers it, and so do small originals (they become smooth
            when stretched) and smooth subjects; noise and compression raise it (20 is white noise). So it is a hint.
            Source: J. L. Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000.
        single_colour_share: share of the pixels in the fullest of 16x16x16 cells of RGB, above 0 up to 1.
    """
    grey = _luminance(pixels)
    counts = np.array(Image.fromarray(grey).histogram(), np.int64)  # NumPy counts half as fast
    ends = counts.cumsum()
    mean, variance = _moments(int(counts @ _LEVELS), int(counts @ _LEVELS**2), grey.size)
    edges = _laplacian(grey.astype(np.int16))
    # The sum of a row stays below 2**31.
    squares = int(np.einsum("ij,ij->i", edges, edges, dtype=np.int32).sum(dtype=np.int64))
    _, variance_of_edges = _moments(int(edges.sum(dtype=np.int64)), squares, edges.size)
    values = {
        "light": mean / 255,
        "light_p5": _percentile(ends, 5) / 255,
        "light_p99": _percentile(ends, 99) / 255,
        "contrast": math.sqrt(variance) / 127.5,
        "sharpness": variance_of_edges / variance if variance else 0.0,
        "single_colour_share": _largest_share(pixels),
    }
    return {name: round(value, _DIGITS) for name, value in values.items()}


def issues(found: Mapping[str, float], thresholds: Prepare, shorter_side_px: int) -> tuple[str, ...]:
    """Which issues the scores show: `dark`, `overexposed`, `low_contrast`, `blurred`, `single_colour` (in this order).

    The thresholds of params.yaml flag none of ants/bees (397 photographs; the outermost scores are 0.46, 0.62, 0.12,
    0.019 and 0.88, in the order of the thresholds; the medians are 0.88, 0.14, 0.41, 0.23 and 0.08) and none of
    scikit-learn's digits. They flag all copies with a tenth of the light as dark. They flag 87 % of the copies with a
    blur of sigma 2 px (out of 224) as blurred, and 98 % with 3 px. Line drawings are `overexposed`.

    Args:
        found: the result of `scores`.
        thresholds: limits of the scores: `dark_below` for `light_p99`, `overexposed_above` for `light_p5`,
            `low_contrast_below`, `blurred_below` for `sharpness`, `single_colour_above`.
        shorter_side_px: of the original. An original below 224 was stretched, so it is smooth and not judged as
            blurred.
    """
    judged = {
        "dark": found["light_p99"] < thresholds.dark_below,
        "overexposed": found["light_p5"] > thresholds.overexposed_above,
        "low_contrast": found["contrast"] < thresholds.low_contrast_below,
        "blurred": shorter_side_px >= IMAGE_SIZE_PX and found["sharpness"] < thresholds.blurred_below,
        "single_colour": found["single_colour_share"] > thresholds.single_colour_above,
    }
    return tuple(name for name, is_so in judged.items() if is_so)


def _luminance(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """ITU-R BT.601, 0...255, rounded."""
    thousandths = pixels.astype(np.float32) @ np.array([299, 587, 114], np.float32)  # below 2**24: exact
    thousandths += np.float32(500.5)  # a rounding error must not lower a whole level
    thousandths *= np.float32(0.001)
    return thousandths.astype(np.uint8)


def _laplacian(grey: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """Sum of the four neighbours minus four times the pixel, without the border."""
    across = grey[1:-1, :-2] + grey[1:-1, 2:]
    down = grey[:-2, 1:-1] + grey[2:, 1:-1]
    return np.asarray(across + down - 4 * grey[1:-1, 1:-1])


def _moments(total: int, squares: int, size: int) -> tuple[float, float]:
    """Mean and variance of `size` values, from the exact sums of the values and of their squares."""
    return total / size, (squares * size - total**2) / size**2


def _percentile(ends: npt.NDArray[np.int64], percent: int) -> int:
    """The lowest level with at least `percent` of the pixels at or below it."""
    return int(np.searchsorted(ends * 100, percent * ends[-1]))


def _largest_share(pixels: Pixels) -> float:
    levels = (pixels >> _COLOUR_SHIFT).astype(np.float32)
    cells = levels @ np.array([_COLOUR_LEVELS**2, _COLOUR_LEVELS, 1], np.float32)
    return int(np.bincount(cells.astype(np.int32).ravel()).max()) / cells.size
