"""Images of 16 bits a sample: one whose high bytes keep almost nothing of it is refused, and no other one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from tasks.images.decoding import PERMISSIVE, decode
from tasks.images.reason_codes import RefusalCode, Refused
from tests.tasks.images.encoding import encode, png

Samples = npt.NDArray[np.uint16]
SIZE = 224


def scan(lowest: int, highest: int) -> Samples:
    """A photograph in grey that fills the values from `lowest` to `highest`, with details between the 8-bit levels."""
    grey = np.asarray(Image.fromarray(load_sample_image("china.jpg")).convert("F").resize((SIZE, SIZE)))
    share = (grey - grey.min()) / (grey.max() - grey.min())
    return (lowest + share * (highest - lowest)).round().astype(np.uint16)


def grey_png(samples: Samples) -> bytes:
    return encode(Image.fromarray(samples), "PNG")


def grey_tiff(samples: Samples) -> bytes:
    return encode(Image.fromarray(samples), "TIFF")


def big_endian_tiff(samples: Samples) -> bytes:
    size = samples.shape[::-1]
    return encode(Image.frombytes("I;16B", size, samples.astype(">u2").tobytes()), "TIFF")


def colour_png(colour_type: int, *bands: Samples) -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in np.dstack(bands).astype(">u2"))
    return png(bands[0].shape[1], bands[0].shape[0], 16, colour_type, rows)


def rgb_png(samples: Samples) -> bytes:
    return colour_png(2, samples, samples, samples)


def rgba_png(samples: Samples) -> bytes:
    return colour_png(6, samples, samples, samples, np.full_like(samples, 65535))


def grey_alpha_png(samples: Samples) -> bytes:
    return colour_png(4, samples, np.full_like(samples, 65535))


GREY = (grey_png, grey_tiff, big_endian_tiff)
ALL = (*GREY, rgb_png, rgba_png, grey_alpha_png)


@pytest.mark.parametrize("encoded", ALL)
@pytest.mark.parametrize(("lowest", "highest"), [(0, 4095), (130, 3187), (31_768, 35_860), (0, 1023)])
def test_image_of_12_bits_is_refused_with_the_cure(
    encoded: Callable[[Samples], bytes], lowest: int, highest: int
) -> None:
    with pytest.raises(Refused) as caught:
        decode(encoded(scan(lowest, highest)), PERMISSIVE)
    assert caught.value.code == RefusalCode.NARROW_RANGE
    assert "16 bits" in caught.value.detail
    assert "scale all images" in caught.value.detail


def test_refusal_of_a_grey_image_tells_its_values() -> None:
    with pytest.raises(Refused, match="130 to 3187 of 65535"):
        decode(grey_png(scan(130, 3187)))


@pytest.mark.parametrize("encoded", ALL)
@pytest.mark.parametrize(("lowest", "highest"), [(0, 65_535), (0, 16_383), (40_000, 48_191)])
def test_image_that_uses_more_of_the_range_keeps_its_high_byte(
    encoded: Callable[[Samples], bytes], lowest: int, highest: int
) -> None:
    samples = scan(lowest, highest)
    pixels, _ = decode(encoded(samples))
    assert np.array_equal(pixels, np.repeat(samples[..., np.newaxis] >> 8, 3, axis=2))


@pytest.mark.parametrize("encoded", ALL)
def test_image_of_one_value_is_not_refused_for_its_range(encoded: Callable[[Samples], bytes]) -> None:
    assert decode(encoded(np.full((SIZE, SIZE), 300, np.uint16)))[0].max() == 1


@pytest.mark.parametrize("encoded", GREY)
@pytest.mark.parametrize("factor", [256, 257])
def test_image_of_8_bits_stored_in_16_loses_nothing_and_is_accepted(
    encoded: Callable[[Samples], bytes], factor: int
) -> None:
    dim = scan(3, 15)
    pixels, _ = decode(encoded((dim * factor).astype(np.uint16)))
    assert np.array_equal(pixels[..., 0], dim)


def test_mask_of_numbered_regions_is_refused_because_all_its_regions_become_black() -> None:
    mask = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) % 5
    with pytest.raises(Refused, match="narrow_range"):
        decode(grey_png(mask))


def test_image_of_8_bits_may_be_dim() -> None:
    dim = scan(0, 12).astype(np.uint8)
    assert np.array_equal(decode(encode(Image.fromarray(dim)))[0][..., 0], dim)
    assert decode(encode(Image.fromarray(dim), "TIFF"))[0].max() == 12
