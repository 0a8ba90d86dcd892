"""Hashes and thumbnails: a re-encoded photograph is found, different images are not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from tasks.images.decoding import Pixels, decode
from tasks.images.duplicates import RADIUS, find_duplicates
from tasks.images.perceptual_hash import are_near_duplicates, are_plain, perceptual_hash, pixel_digest, stack, thumbnail
from tasks.images.sources import digits
from tests.tasks.images.encoding import encode

Change = Callable[[Image.Image], bytes]


def scene(seed: int, width_px: int = 320, height_px: int = 240) -> Image.Image:
    """Something like a photograph: random shapes of all sizes (most of the energy in low frequencies), some noise."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height_px, width_px, 3))
    for side in (3, 6, 12, 24, 48):
        patch = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        total += np.asarray(patch.resize((width_px, height_px), Image.Resampling.BICUBIC), float) / side**0.6
    total += rng.normal(0, 2, total.shape)
    low, high = total.min(), total.max()
    return Image.fromarray(((total - low) / (high - low) * 255).astype(np.uint8))


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = round(image.width * share / 2), round(image.height * share / 2)
    return image.crop((x, y, image.width - x, image.height - y))


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


SAME: dict[str, Change] = {
    "jpeg 95": lambda image: encode(image, "JPEG", quality=95),
    "jpeg 50": lambda image: encode(image, "JPEG", quality=50),
    "webp": lambda image: encode(image, "WEBP"),
    "half": lambda image: encode(resized(image, 0.5)),
    "double": lambda image: encode(resized(image, 2)),
    "crop 2 %": lambda image: encode(cropped(image, 0.02)),
    "brighter": lambda image: encode(ImageEnhance.Brightness(image).enhance(1.1)),
    "darker": lambda image: encode(ImageEnhance.Brightness(image).enhance(0.9)),
    "grey": lambda image: encode(image.convert("L")),
}
OTHER: dict[str, Change] = {
    "mirrored": lambda image: encode(ImageOps.mirror(image)),
    "upside down": lambda image: encode(ImageOps.flip(image)),
    "turned": lambda image: encode(image.rotate(90, expand=True)),
    "negative": lambda image: encode(ImageOps.invert(image)),
    "half of it": lambda image: encode(cropped(image, 0.5)),
    "another": lambda image: encode(scene(1000)),
}


def hash_and_thumbnail(pixels: Pixels) -> tuple[int, bytes]:
    return perceptual_hash(pixels), thumbnail(pixels)


def same_look(one: Pixels, other: Pixels) -> bool:
    looks = [hash_and_thumbnail(one), hash_and_thumbnail(other)]
    hashes = np.array([hash_ for hash_, _ in looks], np.uint64)
    return len(find_duplicates(hashes, stack([small for _, small in looks]))) == 1


def grey(level: int) -> Pixels:
    return np.full((224, 224, 3), level, np.uint8)


@pytest.mark.parametrize("change", SAME)
def test_same_image_stored_anew_looks_the_same(change: str) -> None:
    for seed in range(5):
        image = scene(seed)
        assert same_look(decode(encode(image))[0], decode(SAME[change](image))[0])


@pytest.mark.parametrize("change", OTHER)
def test_other_images_look_different(change: str) -> None:
    for seed in range(5):
        image = scene(seed)
        assert not same_look(decode(encode(image))[0], decode(OTHER[change](image))[0])


def test_no_two_of_many_images_look_the_same() -> None:
    looks = [hash_and_thumbnail(decode(encode(scene(seed, 96, 96)))[0]) for seed in range(150)]
    hashes = np.array([hash_ for hash_, _ in looks], np.uint64)
    assert len(find_duplicates(hashes, stack([small for _, small in looks]))) == 0


def test_no_two_of_the_handwritten_digits_are_taken_for_one() -> None:
    items = digits.list_digits().images[::3]
    looks = [hash_and_thumbnail(decode(item.read())[0]) for item in items]
    hashes = np.array([hash_ for hash_, _ in looks], np.uint64)
    thumbnails = stack([small for _, small in looks])
    near = np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= RADIUS
    assert np.count_nonzero(near) > len(items) + 50  # hashes alone would take many for one
    assert len(find_duplicates(hashes, thumbnails)) == 0


def test_smooth_images_must_agree_better_than_detailed_ones() -> None:
    smooth, detailed = (np.asarray(scene(3).convert("L").filter(f).resize((16, 16))) for f in FILTERS)
    for image, expected in ((smooth, False), (detailed, True)):
        noise = np.random.default_rng(0).normal(0, 0.13 * image.std(), image.shape)
        other = (image + noise).clip(0, 255).astype(np.uint8)
        assert bool(are_near_duplicates(image[None], other[None])[0]) is expected


FILTERS = (ImageFilter.GaussianBlur(40), ImageFilter.UnsharpMask(60, 400, 0))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_an_image_looks_like_itself(seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    small = stack([thumbnail(pixels)])
    assert are_near_duplicates(small, small)[0]
    assert 0 <= perceptual_hash(pixels) < 2**64


@given(st.lists(st.integers(0, 255), min_size=512, max_size=512))
@settings(max_examples=50)
def test_check_for_near_duplicates_is_symmetric(levels: list[int]) -> None:
    one, other = np.array(levels, np.uint8).reshape(2, 1, 16, 16)
    assert are_near_duplicates(one, other)[0] == are_near_duplicates(other, one)[0]


def test_correlation_is_exact_up_to_the_brightest_thumbnails() -> None:
    bright = np.full((1, 16, 16), 255, np.uint8)
    bright[0, ::2, ::2] = 240
    assert are_near_duplicates(bright, bright)[0]
    assert not are_near_duplicates(bright, np.rot90(bright, axes=(1, 2)))[0]


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_blank_images_have_a_hash_but_look_like_nothing(level: int) -> None:
    hash_, small = hash_and_thumbnail(grey(level))
    assert hash_ == (1 << 63 if level else 0)  # no rounding noise in the other 63 bits
    assert are_plain(stack([small]))[0]
    assert not same_look(grey(level), grey(level))


def test_thumbnail_is_the_mean_of_squares_in_grey() -> None:
    pixels = grey(0)
    pixels[:14, 14:28] = (255, 0, 0)
    pixels[14:28, :14] = (0, 255, 0)
    pixels[210:, 210:] = (10, 20, 30)
    small = stack([thumbnail(pixels)])[0]
    assert small[0, 1] == 255 * 299 // 1000
    assert small[1, 0] == 255 * 587 // 1000
    assert small[15, 15] == (10 * 299 + 20 * 587 + 30 * 114) // 1000
    assert np.count_nonzero(small) == 3


def test_hash_is_the_same_on_every_machine() -> None:
    y, x = np.mgrid[:224, :224]
    pixels = np.stack([(x * 3 + y) % 256, (x * y) % 251, (y * 5 + x // 7) % 256], axis=2).astype(np.uint8)
    assert perceptual_hash(pixels) == 0xA8035754223E3F3F
    assert hashlib.sha256(thumbnail(pixels)).hexdigest()[:16] == "91812b0ccc186cb3"


def test_digest_of_pixels_is_that_of_their_bytes_whatever_the_layout_and_format() -> None:
    image = scene(7)
    png, bmp = (decode(encode(image, kind))[0] for kind in ("PNG", "BMP"))
    assert pixel_digest(png) == pixel_digest(bmp) == hashlib.sha256(png.tobytes()).hexdigest()
    assert pixel_digest(np.asfortranarray(png)) == pixel_digest(png)
    changed = png.copy()
    changed[0, 0, 0] ^= 1
    assert pixel_digest(changed) != pixel_digest(png)
