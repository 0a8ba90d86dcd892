"""The first bytes of a file tell whether it can be an image at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.images import decoding
from tasks.images.reason_codes import RefusalCode
from tasks.images.signatures import HEAD_BYTES, judge_head
from tests.tasks.images.encoding import FORMATS, encode, noise

STARTS = st.sampled_from(
    (
        *(b"", b"\xff\xd8\xff", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM"),
        *(b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0"),
        *(b"RIFF\x04\0\0\0WEBPVP8X", b"RIFF\x04\0\0\0AVI ", b"\0\0\0\x20ftyp"),
    )
)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_accepted_format_may_be_an_image(kind: str) -> None:
    data = encode(noise(), kind)
    assert judge_head(data[:HEAD_BYTES]) is None


@given(STARTS, st.binary(max_size=40))
def test_no_file_that_the_decoder_would_open_is_refused(start: bytes, rest: bytes) -> None:
    Image.init()
    head = start + rest
    accepts = [accept for _, accept in (Image.OPEN[name] for name in decoding.FORMATS) if accept]
    assert len(accepts) == len(decoding.FORMATS)
    if any(accept(head[:16]) is True for accept in accepts):
        assert judge_head(head) is None


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b"label: ant\n", "unknown content"),
        (b"<!DOCTYPE html><html>", "a web page or other text"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "a video"),
        (b"RIFF\x04\0\0\0AVI LIST", "a video"),
        (b"RIFF\x04\0\0\0WAVEfmt ", "a sound"),
        (b"\x1aE\xdf\xa3\x01\0\0\0", "a video"),
        (b"PK\x03\x04\x14\0", "a zip archive"),
        (b"\x1f\x8b\x08", "packed by gzip"),
    ],
)
def test_what_is_no_image_is_named(head: bytes, told: str) -> None:
    refused = judge_head(head)
    assert refused is not None
    assert refused.code == RefusalCode.NOT_AN_IMAGE
    assert told in refused.detail
