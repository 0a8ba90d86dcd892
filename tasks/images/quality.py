"""Scores of a decoded image that a policy can judge: dark, overexposed, without contrast, blurred, of one colour.

The scores stand for what CleanVision looks at (cleanlab/cleanvision, `image_property.py`: brightness percentiles,
entropy, the variance of edges); they are computed here, in whole numbers until the last step, so that they are the
same on every machine. CleanVision judges brightness by the 99th percentile (a dark image with a bright lamp isn't
dark) and by the 5th (an image on white paper isn't overexposed if something on it is black); so do we.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

from tasks.images.decoding import Pixels
from tasks.settings import IMAGE_SIZE_PX, Prepare

VERSION = 1
"""Part of the recipe of whatever stores the scores; to be raised when one of them changes."""

_DIGITS = 4
_COLOUR_LEVELS, _COLOUR_SHIFT = 16, 4
_LEVELS = np.arange(256)


def scores(pixels: Pixels) -> dict[str, float]:
    """The scores of an image (224, 224, 3) uint8 RGB, rounded to 4 decimals.

    Returns:
        light: mean luminance, 0 (black) ... 1 (white).
        light_p5, light_p99: percentiles of the luminance, 0...1.
        contrast: standard deviation of the luminance over the largest possible one, 0...1.
        sharpness: variance of the Laplacian over that of the luminance, 0...72, of the image as stretched to
            224x224. It doesn't see contrast. Blur lowers it, and so do small originals (stretched ones are smooth by
            nature) and smooth subjects; noise and compression raise it, 20 is white noise. So it is a hint.
            Source: J. L. Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000.
        single_colour_share: share of the pixels that lie in the fullest of 16x16x16 cells of RGB, above 0 up to 1.
    """
    grey = _luminance(pixels)
    counts = np.array(Image.fromarray(grey).histogram(), np.int64)  # NumPy takes twice as long to count
    ends = counts.cumsum()
    mean, variance = _moments(int(counts @ _LEVELS), int(counts @ _LEVELS**2), grey.size)
    edges = _laplacian(grey.astype(np.int16))
    squares = int(np.einsum("ij,ij->i", edges, edges, dtype=np.int32).sum(dtype=np.int64))  # a row's stay below 2**31
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
    """Which of `dark`, `overexposed`, `low_contrast`, `blurred`, `single_colour` the scores amount to, in this order.

    The thresholds of params.yaml flag none of ants/bees (397 photographs; the outermost scores are 0.46, 0.62, 0.12,
    0.019 and 0.88, in the order of the thresholds; the medians 0.88, 0.14, 0.41, 0.23 and 0.08) and none of
    scikit-learn's digits. Of copies at a tenth of the light they flag all as dark, of copies blurred with sigma 2 px
    (of 224) 87 % as blurred, with 3 px 98 %. Line drawings are `overexposed`.

    Args:
        found: what `scores` gave.
        thresholds: from where on a score is an issue: `dark_below` of `light_p99`, `overexposed_above` of `light_p5`,
            `low_contrast_below`, `blurred_below` of `sharpness`, `single_colour_above`.
        shorter_side_px: of the original. Below 224 it was stretched, smooth by nature, and is not judged as blurred.
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
    thousandths += np.float32(500.5)  # the half keeps whole levels from being missed by a rounding error
    thousandths *= np.float32(0.001)
    return thousandths.astype(np.uint8)


def _laplacian(grey: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """Sum of the four neighbours less four times the pixel, inside of the border."""
    across = grey[1:-1, :-2] + grey[1:-1, 2:]
    down = grey[:-2, 1:-1] + grey[2:, 1:-1]
    return np.asarray(across + down - 4 * grey[1:-1, 1:-1])


def _moments(total: int, squares: int, size: int) -> tuple[float, float]:
    """Mean and variance, from the exact sums of so many values and of their squares."""
    return total / size, (squares * size - total**2) / size**2


def _percentile(ends: npt.NDArray[np.int64], percent: int) -> int:
    """The lowest level up to which at least so many per cent of the pixels go."""
    return int(np.searchsorted(ends * 100, percent * ends[-1]))


def _largest_share(pixels: Pixels) -> float:
    levels = (pixels >> _COLOUR_SHIFT).astype(np.float32)
    cells = levels @ np.array([_COLOUR_LEVELS**2, _COLOUR_LEVELS, 1], np.float32)
    return int(np.bincount(cells.astype(np.int32).ravel()).max()) / cells.size
