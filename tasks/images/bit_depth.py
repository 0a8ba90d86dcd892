"""Images of 16 bits a sample: their high bytes, and the refusal of images that high bytes can't show.

Microscopes, X-ray detectors and industrial cameras often measure 10 to 12 bits and store them in 16. The high bytes of
such an image keep 17 grey levels at most, so a network sees almost nothing of it. Which scale is right depends on the
instrument, and must be the same for all images of a data set; no rule can read it from one image. So such an image is
refused, and the person who knows the instrument rescales the data set once.

Images that lose nothing are accepted: those of one value, and those of 8 bits that were only stored in 16. A very dark
image of true 16 bits is refused too: its brightest pixel would be 16 of 255.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from tasks.images.reason_codes import RefusalCode, Refused

_LEAST_SPAN = 4096
"""Difference of the largest and the smallest value, of 65,535, from which the high bytes are enough."""
_CHUNK = 1 << 20
_BITS_PER_SAMPLE = 258  # tag of TIFF 6.0
_BITS_AT, _IHDR_AT = 24, 12  # in a PNG file


def high_bytes(image: Image.Image) -> Image.Image:
    """The 8-bit image of a 16-bit grey one (modes I;16, I;16B, ...).

    Raises:
        Refused: the values span so little that most of the image would be lost.
    """
    samples = np.asarray(image).astype(np.uint16)
    low, high = int(samples.min()), int(samples.max())
    if high - low < _LEAST_SPAN and _are_levels_lost(samples):
        raise _refused(f"{low} to {high} of 65535")
    return Image.fromarray((samples >> 8).astype(np.uint8))


def check_colours(image: Image.Image, data: bytes) -> None:
    """Check an image whose 16-bit samples Pillow has already cut to their high bytes (colour, or grey with alpha).

    Raises:
        Refused: as in `high_bytes`; an image of 8 bits that is stored in 16 can't be told apart here.
    """
    if image.mode.startswith("I") or not _has_16_bits(image, data):
        return
    pixels = np.asarray(image.convert("RGB"))
    low, high = int(pixels.min()), int(pixels.max())
    if high - low <= _LEAST_SPAN >> 8 and (pixels != pixels[0, 0]).any():
        raise _refused(f"about {low << 8} to {high << 8} of 65535")


def _are_levels_lost(samples: npt.NDArray[np.uint16]) -> bool:
    """Whether different samples have the same high byte."""
    used = np.zeros(1 << 16, bool)
    for some in np.array_split(samples.ravel(), samples.size // _CHUNK + 1):  # an index of many bytes for each sample
        used[some] = True
    return bool(used.sum() > used.reshape(256, 256).any(axis=1).sum())


def _has_16_bits(image: Image.Image, data: bytes) -> bool:
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, 1)
        return bits == 16 or (isinstance(bits, tuple) and 16 in bits)
    return image.format == "PNG" and data[_IHDR_AT : _IHDR_AT + 4] == b"IHDR" and data[_BITS_AT] == 16


def _refused(values: str) -> Refused:
    return Refused(
        RefusalCode.NARROW_RANGE,
        f"16 bits a sample, but its values are only {values}, so 8 bits would keep at most 17 levels: "
        "scale all images by one factor, so that they fill 16 bits, or to 8 bits",
    )
