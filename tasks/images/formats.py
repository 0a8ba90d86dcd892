"""Checks of an image's bytes that Pillow doesn't offer: whether it is cut off, and whether it is a camera's RAW."""

from __future__ import annotations

from typing import Literal

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

_REDUCED_IMAGE, _DNG_VERSION = 254, 50706  # tags of TIFF 6.0 (bit 0: a smaller version of another image) and DNG


def is_cut(data: bytes) -> bool:
    """Whether an unreadable image ends too early, according to its own headers and end marks."""
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if data.startswith(b"GIF8"):
        return not data.endswith(b";")
    if data.startswith(b"RIFF"):
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if data.startswith(b"BM"):
        return len(data) < int.from_bytes(data[2:6], "little")
    if data.startswith((b"II*\x00", b"MM\x00*")):
        order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
        directory = int.from_bytes(data[4:8], order)
        entries = int.from_bytes(data[directory : directory + 2], order)
        return len(data) < directory + 2 + 12 * entries + 4
    return False


def is_raw(image: Image.Image, data: bytes) -> bool:
    """Whether a TIFF file is a camera's RAW, whose first image is only a preview (NEF, ARW, DNG, CR2 and others)."""
    if not isinstance(image, TiffImageFile):
        return False
    reduced = image.tag_v2.get(_REDUCED_IMAGE, 0)
    return data[8:10] == b"CR" or _DNG_VERSION in image.tag_v2 or (isinstance(reduced, int) and bool(reduced & 1))
