"""CRC-32C, against the definition, published values and TensorFlow's own checksums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tasks.vgg.exports.crc32c import crc32c, masked_crc32c


def by_definition(content: bytes) -> int:
    """One bit at a time."""
    value = 0xFFFFFFFF
    for byte in content:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (value & 1) * 0x82F63B78
    return value ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_checksums_are_the_published_ones(content: bytes, expected: int) -> None:
    """RFC 3720, B.4, and the check value of the catalogue of CRC algorithms."""
    assert crc32c(content) == expected


def test_every_length_counts() -> None:
    content = np.random.default_rng(0).bytes(300)
    for length in range(4, 300):
        assert crc32c(content[:length]) == by_definition(content[:length]), length
    assert crc32c(content[4:]) != crc32c(bytes(4) + content[4:])


def test_masked_checksum_is_that_of_tensorflows_records(tmp_path: Path) -> None:
    """A record is its length (8 bytes), the checksum of the length (4), the content, the checksum of the content."""
    import tensorflow as tf

    content = np.random.default_rng(1).bytes(1001)
    with tf.io.TFRecordWriter(str(tmp_path / "records")) as writer:
        writer.write(content)
    written = (tmp_path / "records").read_bytes()
    assert written[8:12] == masked_crc32c(written[:8])
    assert written[-4:] == masked_crc32c(content)
