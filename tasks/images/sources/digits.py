"""The built-in source: handwritten digits of scikit-learn (UCI, 8x8 pixels). It needs no network.

`digits` is the first 60 of each class, for a quick first run; `digits:all` is all 1,797.

E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998. CC BY 4.0.
"""

from __future__ import annotations

import gzip
import io
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.errors import SourceError
from tasks.files import sha256_hex
from tasks.images.sources.layout import BUILT_IN
from tasks.images.sources.listing import SourceImage, SourceListing
from tasks.images.sources.policy import SourcePolicy

ALL = f"{BUILT_IN}:all"
PER_CLASS = 60


def check(uri: str, _policy: SourcePolicy) -> None:
    """Check the name; the images are always there.

    Raises:
        SourceError: the name is none of this source.
    """
    if uri not in (BUILT_IN, ALL):
        raise SourceError(f"Give `{BUILT_IN}` ({PER_CLASS} images of each class) or `{ALL}` (1,797). Received: {uri!r}")


def discover(uri: str, _policy: SourcePolicy) -> SourceListing:
    """See `list_digits`; the policy has no rule for this source."""
    return list_digits(None if uri == ALL else PER_CLASS)


def list_digits(per_class: int | None = None) -> SourceListing:
    """The first digits of each class as grey PNG files, in ten classes `0` to `9`, without splits; None: all digits."""
    rows = _read_rows()
    labels = rows[:, -1]
    grey = (rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).round().astype("uint8")
    items = [
        SourceImage(f"{label}/{number:04d}.png", str(label), None, _Digits(), pixels, _version(pixels))
        for number, (pixels, label) in enumerate(zip(grey, labels, strict=True))
        if per_class is None or np.count_nonzero(labels[:number] == label) < per_class
    ]
    part = "" if per_class is None else f", the first {per_class} of each class"
    about = {
        "name": f"Optical Recognition of Handwritten Digits{part}",
        "licence": "CC BY 4.0",
        "citation": "E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, 1998",
        "homepage": "https://archive.ics.uci.edu/dataset/80",
    }
    return SourceListing.of(items, about)


def _read_rows() -> npt.NDArray[np.uint8]:
    """Rows of 64 grey values, 0 to 16, and the digit: the file of scikit-learn, whose import takes a second."""
    file = Path(str(metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")))
    lines = gzip.decompress(file.read_bytes()).decode().split()
    return np.array([line.split(",") for line in lines], dtype=np.uint8)


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
