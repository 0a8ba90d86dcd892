"""The graph's decoder beside the training decoder, and the odd files that both have to read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.images.decoding import PERMISSIVE, Pixels, decode

LARGEST_DIFFERENCE = 2
"""Levels of 0 to 255, of any channel of any pixel: a tie in each of the two passes may fall otherwise in float32."""
LARGEST_MEAN_DIFFERENCE = 0.06
BACKGROUND = (255, 255, 255)


@cache
def graph() -> Callable[[bytes], Pixels]:
    import tensorflow as tf

    from tasks.vgg.exports.graph_decoding import decode_one

    signature = [tf.TensorSpec((), tf.string)]
    run = tf.function(
        lambda contents: decode_one(contents, BACKGROUND, PERMISSIVE.max_pixels),
        input_signature=signature,
        autograph=False,
    )
    return lambda content: run(tf.constant(content)).numpy()


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> Any:
    """A smooth image with noise, so that a wrong order of rounding, scale or axis shows."""
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = (
        120
        + 60 * np.sin(rows / 7)[..., None]
        + 60 * np.cos(columns / 11)[..., None] * np.arange(1, channels + 1) / channels
    )
    rough = np.random.default_rng(seed).integers(-30, 31, (height, width, channels))
    return (
        (smooth + rough).clip(0, 255).astype(np.uint8).squeeze()
        if channels > 1
        else (smooth + rough).clip(0, 255).astype(np.uint8)[..., 0]
    )


def image(width: int = 97, height: int = 61, channels: int = 3) -> Image.Image:
    array = noise(width, height, channels).reshape((height, width, channels) if channels > 1 else (height, width))
    return Image.fromarray(array)


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def check_equal(content: bytes) -> None:
    expected, actual = decode(content)[0].astype(int), graph()(content).astype(int)
    difference = np.abs(expected - actual)
    assert difference.max() <= LARGEST_DIFFERENCE
    assert difference.mean() <= LARGEST_MEAN_DIFFERENCE


def check_refused(content: bytes, reason: str) -> None:
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match=reason) as caught:
        graph()(content)
    assert "Image 0 of the batch is refused" in str(caught.value)
    assert "tasks.predict" in str(caught.value)


def palette(**options: Any) -> bytes:
    return encode(image().quantize(19), "PNG", **options)


def deep_png(channels: int, colour: int, depth: int = 16, chunks: bytes = b"") -> bytes:
    """A PNG of 16 bits, or of fewer than 8, a channel, which Pillow doesn't write."""
    height, width = 50, 64
    values = np.random.default_rng(1).integers(0, 256, (height, width * channels * depth // 8), dtype=np.uint8)
    rows = b"".join(b"\x00" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(
    orientation: int, big: bool, kind: int = 3, count: int = 1, before: tuple[int, int, int, int] | None = None
) -> bytes:
    """An EXIF block: a tag before, the orientation, a tag behind."""
    order = ">" if big else "<"
    value = struct.pack(f"{order}H2x", orientation) if kind == 3 else struct.pack(f"{order}I", orientation)
    first = before or (0x010F, 2, 4, 0x00414141)
    entries = struct.pack(f"{order}HHII", *first)
    entries += struct.pack(f"{order}HHI", 0x0112, kind, count) + value
    entries += struct.pack(f"{order}HHII", 0x0128, 3, 1, 2 << 16 if big else 2)
    return (b"MM\x00*" if big else b"II*\x00") + struct.pack(f"{order}IH", 8, 3) + entries + b"\x00" * 4


def with_segments(content: bytes, *segments: tuple[int, bytes]) -> bytes:
    """The JPEG with segments put behind its first (JFIF) segment."""
    place = 4 + int.from_bytes(content[4:6], "big")
    new = b"".join(bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in segments)
    return content[:place] + new + content[place:]


def exif(block: bytes) -> tuple[int, bytes]:
    return 0xE1, b"Exif\x00\x00" + block


def xmp(text: str) -> tuple[int, bytes]:
    return 0xE1, b"http://ns.adobe.com/xap/1.0/\x00<x \xff>" + text.encode()
