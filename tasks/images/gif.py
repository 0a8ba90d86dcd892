"""Tells whether a GIF has more than one frame. Pillow would have to decode up to the second frame."""

from __future__ import annotations

import contextlib

_SIGNATURE_BYTES, _SCREEN_BYTES, _IMAGE_BYTES = 6, 7, 10
_IMAGE, _EXTENSION = 0x2C, 0x21
_HAS_PALETTE, _PALETTE_BITS = 0x80, 0x07


def has_frames(data: bytes) -> bool:
    """Whether a second frame begins in this GIF. Nothing is decoded, and a frame that is cut off doesn't count.

    Source: GIF89a specification, appendix B: https://www.w3.org/Graphics/GIF/spec-gif89a.txt
    """
    frames = 0
    with contextlib.suppress(IndexError):  # a file that is cut off: the frames before the cut count
        position = _SIGNATURE_BYTES + _SCREEN_BYTES + _palette_bytes(data[_SIGNATURE_BYTES + 4])
        while frames < 2:
            if data[position] == _IMAGE:
                frames += 1
                palette = _palette_bytes(data[position + _IMAGE_BYTES - 1])
                position = _after_blocks(data, position + _IMAGE_BYTES + palette + 1)  # 1: the code size
            elif data[position] == _EXTENSION:
                position = _after_blocks(data, position + 2)
            else:
                break  # the trailer, or junk
    return frames > 1


def _palette_bytes(flags: int) -> int:
    return 3 << (1 + (flags & _PALETTE_BITS)) if flags & _HAS_PALETTE else 0


def _after_blocks(data: bytes, position: int) -> int:
    """The position after data blocks. Each block begins with its length; the last one has length 0."""
    while length := data[position]:
        position += 1 + length
    return position + 1
