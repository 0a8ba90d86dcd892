"""An image's content in a few bytes: a hash to find near duplicates, and a thumbnail to confirm them.

A near duplicate is another copy of the same photograph: encoded again, resized, a little brighter or darker, without
its colours, or cut by some 2 % at its edges. A mirrored image is not a duplicate of its original.

Everything is computed in whole numbers, so that all machines and all versions of the libraries compute the same bits.
"""

from __future__ import annotations

import functools
import hashlib
import math

import numpy as np
import numpy.typing as npt

from tasks.images.decoding import Pixels
from tasks.images.image_size import IMAGE_SIZE_PX

Thumbnails = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

VERSION = 1
"""Part of the recipe of every store of these values. Raise it when one of them changes."""

SIDE_PX = 16
"""Side of a thumbnail, pixels."""

_LUMA = np.array([299, 587, 114], np.int64)  # ITU-R BT.601 in thousandths, as in Pillow's mode L
_GRID = 32
_GREY_AREA = (IMAGE_SIZE_PX // _GRID) ** 2 * int(_LUMA.sum())
_FREQUENCIES = 8
_COSINE_SCALE = 512  # sums stay far below 2**63

_SAME = 0.006
_SMOOTH = 0.2
_SHIFTED = 0.15
_MIN_CONTRAST = 4.0
_COPY_LEVELS = 6.0


def pixel_digest(pixels: Pixels) -> str:
    """SHA-256 (hex) of decoded pixels (224, 224, 3) uint8: equal for the same image as PNG, BMP or TIFF."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def perceptual_hash(pixels: Pixels) -> int:
    """The DCT hash pHash of a decoded image, in the form of the library ImageHash.

    The grey image is averaged to 32x32, and the 8x8 lowest frequencies of its cosine transform are kept. Each bit
    tells whether a coefficient is above their median. So brightness, contrast, colour, size and compression don't
    change the hash. Source: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010;
    ImageHash, `phash`. ImageHash computes other values, because it resizes the original by another filter.

    Args:
        pixels: (224, 224, 3) uint8 RGB.

    Returns:
        0 <= hash < 2**64, the constant term first (the highest bit). Equal images have Hamming distance 0, copies of
        one image mostly 0-4, unrelated images about 32 (14 and more among the 78,210 pairs of ants/bees). An image of
        one colour has only the bit of the constant term.
    """
    return _hash(_grey_sums(pixels))


def thumbnail(pixels: Pixels) -> bytes:
    """The grey image averaged to 16x16, as 256 bytes, row by row."""
    return _thumbnail(_grey_sums(pixels))


def hash_and_thumbnail(pixels: Pixels) -> bytes:
    """8 bytes of `perceptual_hash`, the highest first, then the bytes of `thumbnail`."""
    sums = _grey_sums(pixels)
    return _hash(sums).to_bytes(8, "big") + _thumbnail(sums)


def stack(thumbnails: list[bytes]) -> Thumbnails:
    """The bytes of thumbnails -> (n, 16, 16) uint8."""
    return np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, SIDE_PX, SIDE_PX)


def are_plain(thumbnails: Thumbnails) -> Flags:
    """Which thumbnails (n, 16, 16) have too little contrast to compare: standard deviation below 4 of 255 levels.

    Blank pages and black frames look alike, but are different images; only equal pixels make them duplicates. The
    least contrast among the photographs of ants/bees is 9.2.
    """
    _, variance = _moments(thumbnails)
    return np.asarray(variance < _MIN_CONTRAST**2)


def are_near_duplicates(one: Thumbnails, other: Thumbnails) -> Flags:
    """Which pairs of thumbnails (m, 16, 16) show the same image, judged by their correlation.

    Brightness and contrast don't change the correlation. It must be at least 0.994, minus an allowance for cut edges: a
    cut shifts the image, and the shift lowers the correlation more if neighbouring pixels differ more. Let g be the
    mean squared difference of neighbouring pixels divided by twice the variance, for the smoother of both images (0.19
    for digits of 8x8 pixels, 0.5 for photographs, 1 for noise). The rule is 1 - correlation <= 0.006 + 0.15 x
    max(0, g - 0.2).

    Measured with hashes within 10 bits: it accepts no pair among ants/bees, and none among scikit-learn's digits. A
    fixed limit of 0.96 finds as many cut photographs, but accepts hundreds of pairs of different digits.
    """
    mean_one, variance_one = _moments(one)
    mean_other, variance_other = _moments(other)
    product = np.einsum("nij,nij->n", one, other, dtype=np.float32, casting="unsafe")  # below 2**24: exact
    covariance = product.astype(np.float64) / SIDE_PX**2 - mean_one * mean_other
    product_of_variances = variance_one * variance_other
    correlation = covariance / np.sqrt(np.where(product_of_variances > 0, product_of_variances, 1.0))
    roughness = np.minimum(_roughness(one, variance_one), _roughness(other, variance_other))
    allowed = _SAME + _SHIFTED * np.maximum(0.0, roughness - _SMOOTH)
    return np.asarray((product_of_variances > 0) & (1 - correlation <= allowed))


def are_copies(one: Pixels, other: Pixels) -> bool:
    """Whether two images (224, 224, 3) that are near duplicates differ only as copies of one image do.

    Both are averaged to 32x32 and brought to one brightness and contrast. Then no square may differ by more than 6
    of 255 levels. Measured on 83 photographs of ants/bees and flowers: all copies saved as JPEG (quality 50 to 90) or
    without colours agree, 99 % of those at half the size, 45 % of those brightened by 10 % (which cuts off highlights),
    and 1 % of those cut by 2 %. Of images of one fixed camera in which a thing of 5 to 40 pixels differs, none agree.
    """
    grids = [(_grey_sums(pixels) / _GREY_AREA).ravel().tolist() for pixels in (one, other)]
    means = [math.fsum(grid) / len(grid) for grid in grids]
    centred = [[value - mean for value in grid] for grid, mean in zip(grids, means, strict=True)]
    deviations = [math.sqrt(math.fsum(value * value for value in grid) / len(grid)) for grid in centred]
    if min(deviations) == 0:
        return deviations[0] == deviations[1]
    scales = [min(deviations) / deviation for deviation in deviations]
    return all(
        abs(first * scales[0] - second * scales[1]) <= _COPY_LEVELS for first, second in zip(*centred, strict=True)
    )


def _hash(sums: npt.NDArray[np.int64]) -> int:
    waves = _cosines()
    spectrum = (waves @ sums @ waves.T).ravel()
    median = np.sort(spectrum)[spectrum.size // 2 - 1]
    return int.from_bytes(np.packbits(spectrum > median).tobytes(), "big")


def _thumbnail(sums: npt.NDArray[np.int64]) -> bytes:
    times = _GRID // SIDE_PX
    area = (IMAGE_SIZE_PX // SIDE_PX) ** 2 * int(_LUMA.sum())
    squares = sums.reshape(SIDE_PX, times, SIDE_PX, times).sum(axis=(1, 3))
    return bytes((squares // area).astype(np.uint8).data)


def _grey_sums(pixels: Pixels) -> npt.NDArray[np.int64]:
    """Sums of luminance (in thousandths of a level) over 32x32 equal squares.

    Slices are added one by one, which is twice as fast as `sum`; this runs for every image.
    """
    step = IMAGE_SIZE_PX // _GRID
    rows = pixels.reshape(_GRID, step, IMAGE_SIZE_PX * 3)
    columns = rows[:, 0].astype(np.uint16)
    for place in range(1, step):
        columns += rows[:, place]
    squares = columns.reshape(_GRID, _GRID, step, 3)
    sums = squares[:, :, 0].astype(np.int64)
    for place in range(1, step):
        sums += squares[:, :, place]
    return np.asarray(sums @ _LUMA)


@functools.cache
def _cosines() -> npt.NDArray[np.int64]:
    """The lowest 8 waves of the DCT-II over 32 points (8, 32), rounded to whole numbers."""
    angles = np.outer(np.arange(_FREQUENCIES), 2 * np.arange(_GRID) + 1) * np.pi / (2 * _GRID)
    return np.round(_COSINE_SCALE * np.cos(angles)).astype(np.int64)


def _moments(thumbnails: Thumbnails) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and variance of each thumbnail, from exact sums."""
    flat = thumbnails.reshape(len(thumbnails), -1)
    mean = flat.sum(axis=1, dtype=np.int64) / flat.shape[1]
    squares = np.einsum("ni,ni->n", flat, flat, dtype=np.float32, casting="unsafe")
    return mean, np.asarray(squares.astype(np.float64) / flat.shape[1] - mean**2)


def _roughness(thumbnails: Thumbnails, variance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    signed = thumbnails.astype(np.int16)
    across, down = np.diff(signed, axis=2), np.diff(signed, axis=1)
    squares = sum(np.square(step, dtype=np.float32).mean(axis=(1, 2), dtype=np.float64) for step in (across, down))
    return np.asarray(squares / (2 * np.where(variance > 0, variance, 1.0)))
