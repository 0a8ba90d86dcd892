"""CRC-32C, the checksum inside TensorFlow's files (RFC 3720, section 12.1); Python's libraries have only CRC-32.

The content is a polynomial over two elements, and its remainder is wanted. Each step folds neighbouring coefficients
into one, all pairs at once, until one is left. With VGG16's 59 MB this takes a quarter of a second.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
"""Polynomials of a degree below 32; the lowest bit is the highest coefficient."""

_POLYNOMIAL = np.uint32(0x82F63B78)
_BLOCK = 1 << 14
"""Words whose products fit a core's cache."""


def masked_crc32c(content: bytes) -> bytes:
    """The checksum as TensorFlow writes it: changed, because a checksum of checksums would prove little."""
    value = crc32c(content)
    return (((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def crc32c(content: bytes) -> int:
    """The checksum of at least four bytes."""
    padding = -len(content) % 4
    data = np.zeros(padding + len(content), np.uint8)
    data[padding:] = np.frombuffer(content, np.uint8)
    data[padding : padding + 4] ^= 255
    words, power = data.view("<u4"), _x_32()
    while len(words) > 1:
        if len(words) % 2:
            words = np.concatenate([np.zeros(1, np.uint32), words])
        words = _multiply(words[::2], power) ^ words[1::2]
        power = _multiply(power.ravel(), power).reshape(power.shape)
    return int(~_multiply(words, _x_32())[0])


def _multiply(words: Words, factor: Words) -> Words:
    """The products of polynomials with a factor (4, 256): its product with each value of each byte of a word."""
    product = np.zeros(words.shape, np.uint32)
    for at in range(0, len(words), _BLOCK):
        parts = np.ascontiguousarray(words[at : at + _BLOCK]).view(np.uint8).reshape(-1, 4)
        for products, part in zip(factor, parts.T, strict=True):
            product[at : at + _BLOCK] ^= products.take(part, mode="clip")  # a byte is never too large for 256 values
    return product


@cache
def _x_32() -> Words:
    """The factor x ** 32."""
    words: Words = np.arange(256, dtype=np.uint32) << np.array([[0], [8], [16], [24]], np.uint32)
    for _ in range(32):
        words = words >> np.uint32(1) ^ (words & np.uint32(1)) * _POLYNOMIAL
    return words
