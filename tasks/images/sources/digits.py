"""The built-in source: scikit-learn's 1,797 handwritten digits (UCI, 8x8 pixels). It needs no network.

E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998. CC BY 4.0.
"""

from __future__ import annotations

import io
from importlib import metadata

import numpy as np
import numpy.typing as npt

from tasks.files import sha256_hex
from tasks.images.sources.listing import SourceImage, SourceListing
from tasks.images.sources.policy import SourcePolicy


def check(_uri: str, _policy: SourcePolicy) -> None:
    """Does nothing: this source always exists."""


def discover(_uri: str, _policy: SourcePolicy) -> SourceListing:
    """See `list_digits`; the policy has no rule for this source."""
    return list_digits()


def list_digits() -> SourceListing:
    """The digits as grey PNG files, in ten classes `0` to `9`, without splits."""
    from sklearn.datasets import load_digits  # slow, and only this source needs it

    digits = load_digits()
    grey = (digits.images * (255 / 16)).round().astype("uint8")
    items = [
        SourceImage(f"{label}/{number:04d}.png", str(label), None, _Digits(), pixels, _version(pixels))
        for number, (pixels, label) in enumerate(zip(grey, digits.target, strict=True))
    ]
    about = {
        "name": "Optical Recognition of Handwritten Digits",
        "licence": "CC BY 4.0",
        "citation": "E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, 1998",
        "homepage": "https://archive.ics.uci.edu/dataset/80",
    }
    return SourceListing.of(items, about)


class _Digits:
    """Reads a digit: its place is its pixels."""

    def read(self, image: SourceImage) -> bytes:
        return _png(image.place)

    def read_head(self, _image: SourceImage) -> None:
        return None


def _version(pixels: npt.NDArray[np.uint8]) -> str:
    return f"{sha256_hex(pixels.tobytes())}, {metadata.version('pillow')}"  # Pillow encodes them


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
