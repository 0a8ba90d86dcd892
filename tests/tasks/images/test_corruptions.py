"""Worse copies of images: each kind does what it says, more at each strength, and always the same."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tasks.images.corruptions import KINDS, STRENGTHS, corrupt

RNG = np.random.default_rng(0)
COARSE = Image.fromarray(RNG.integers(0, 256, (14, 14, 3), np.uint8))
PIXELS = np.asarray(COARSE.resize((224, 224), Image.Resampling.BICUBIC))
KEYS = [f"{number:064x}" for number in range(4)]


@pytest.mark.parametrize("kind", KINDS)
def test_corruption_is_the_same_each_time_and_stronger_each_step(kind: str) -> None:
    before = PIXELS.copy()
    copies = [corrupt(PIXELS, kind, strength, KEYS[0]) for strength in STRENGTHS]
    for strength, copy in zip(STRENGTHS, copies, strict=True):
        assert (copy.shape, copy.dtype) == (PIXELS.shape, np.uint8)
        assert np.array_equal(copy, corrupt(PIXELS, kind, strength, KEYS[0]))
    assert np.array_equal(before, PIXELS)
    distances = [np.abs(copy.astype(int) - PIXELS).mean() for copy in copies]
    assert distances[0] > 0.5
    assert distances == sorted(distances)


def test_corruptions_with_chance_differ_between_images() -> None:
    for kind in ("noisy", "rotated", "cropped"):
        copies = [corrupt(PIXELS, kind, 2, key).tobytes() for key in KEYS]
        assert len(set(copies)) > 1, kind


def test_darker_keeps_the_colours_and_blur_the_brightness() -> None:
    dark, blurred = corrupt(PIXELS, "darker", 3, KEYS[0]), corrupt(PIXELS, "blurred", 3, KEYS[0])
    ratio = dark.astype(float).sum(axis=(0, 1)) / PIXELS.astype(float).sum(axis=(0, 1))
    assert ratio.max() < 0.25
    assert np.ptp(ratio) < 0.01
    assert abs(blurred.mean() - PIXELS.mean()) < 1
    assert blurred.std() < 0.8 * PIXELS.std()


def test_cropped_copy_shows_a_part_in_full_size() -> None:
    ramp = np.broadcast_to(np.linspace(0, 223, 224).astype(np.uint8)[np.newaxis, :, np.newaxis], (224, 224, 3))
    shown = corrupt(np.ascontiguousarray(ramp), "cropped", 2, KEYS[0])[100, :, 0].astype(int)
    assert shown[-1] - shown[0] < 224 * 0.75
    assert (np.diff(shown) >= 0).all()


def test_rotated_copy_has_no_black_corners() -> None:
    white = np.full((224, 224, 3), 255, np.uint8)
    assert corrupt(white, "rotated", 3, KEYS[0]).min() == 255


def test_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"darker, blurred.*Received: .*foggy"):
        corrupt(PIXELS, "foggy", 1, KEYS[0])
