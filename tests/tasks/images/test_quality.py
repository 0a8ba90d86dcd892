"""Quality scores of images, and the notes that follow from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from tasks.images.decoding import Pixels, decode
from tasks.images.quality import issues, scores
from tasks.images.sources import digits
from tasks.params import load_settings
from tests.conftest import PARAMS
from tests.tasks.images.test_perceptual_hash import grey, scene

THRESHOLDS = load_settings(PARAMS.parent).prepare


def photograph(seed: int = 0) -> Pixels:
    return np.asarray(scene(seed).resize((224, 224)))


def blurred(pixels: Pixels, sigma_px: float) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma_px)))


def judge(pixels: Pixels, side_px: int = 500) -> tuple[str, ...]:
    return issues(scores(pixels), THRESHOLDS, side_px)


@given(st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(1, 256))
@settings(max_examples=30, deadline=None)
def test_scores_are_in_range_and_the_same_again(seed: int, low: int, width: int) -> None:
    pixels = np.random.default_rng(seed).integers(low, min(256, low + width), (224, 224, 3), dtype=np.uint8)
    found = scores(pixels)
    assert found == scores(np.asfortranarray(pixels))
    assert 0 <= found["sharpness"] <= 72
    assert all(0 <= value <= 1 for name, value in found.items() if name != "sharpness")
    assert found["light_p5"] <= found["light_p99"]


@pytest.mark.parametrize(("level", "light"), [(0, 0.0), (51, 0.2), (255, 1.0)])
def test_scores_of_one_colour(level: int, light: float) -> None:
    assert scores(grey(level)) == {
        "light": light,
        "light_p5": light,
        "light_p99": light,
        "contrast": 0.0,
        "sharpness": 0.0,
        "single_colour_share": 1.0,
    }


def test_scores_of_half_black_half_white() -> None:
    pixels = grey(0)
    pixels[:, 112:] = 255
    found = scores(pixels)
    assert (found["light"], found["light_p5"], found["light_p99"]) == (0.5, 0.0, 1.0)
    assert (found["contrast"], found["single_colour_share"]) == (1.0, 0.5)
    assert found["sharpness"] == pytest.approx(2 * 222 / 222**2 * 4, abs=1e-4)  # two columns of +-255


def test_percentiles_leave_out_the_outermost_pixels() -> None:
    pixels = grey(100)
    pixels[0, :] = 255  # 0.4 % of the image
    assert scores(pixels)["light_p99"] == round(100 / 255, 4)
    pixels[:3, :] = 255  # 1.3 %
    assert scores(pixels)["light_p99"] == 1.0


def test_luminance_weighs_the_colours() -> None:
    for colour, light in (((255, 0, 0), 0.299), ((0, 255, 0), 0.587), ((0, 0, 255), 0.114)):
        pixels = grey(0)
        pixels[:] = colour
        assert scores(pixels)["light"] == pytest.approx(light, abs=0.002)


def test_sharpness_falls_with_blur() -> None:
    sharp = photograph()
    by_blur = [scores(blurred(sharp, sigma))["sharpness"] for sigma in (0, 1, 2, 4)]
    assert by_blur == sorted(by_blur, reverse=True)
    assert by_blur[0] > 5 * by_blur[2]


def test_sharpness_does_not_see_contrast() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    sharpness = scores(noise)["sharpness"]
    assert sharpness == pytest.approx(20, rel=0.02)
    assert scores((noise // 2 + 64).astype(np.uint8))["sharpness"] == pytest.approx(sharpness, rel=0.02)


def test_photograph_has_no_issue() -> None:
    for seed in range(10):
        assert judge(photograph(seed)) == ()


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (photograph() // 5, {"dark"}),
        (photograph() // 10 + 220, {"overexposed"}),
        ((photograph() // 24 + 110), {"low_contrast"}),
        (blurred(photograph(), 12), {"blurred"}),
        (grey(128), {"low_contrast", "blurred", "single_colour"}),
    ],
    ids=["dark", "overexposed", "low_contrast", "blurred", "single_colour"],
)
def test_each_issue_is_seen(pixels: Pixels, expected: set[str]) -> None:
    assert expected <= set(judge(pixels.astype(np.uint8)))


def test_each_threshold_can_be_switched_off() -> None:
    off = {
        "dark_below": 0.0,
        "overexposed_above": 1.0,
        "low_contrast_below": 0.0,
        "blurred_below": 0.0,
        "single_colour_above": 1.0,
    }
    for level in (0, 255):
        found = scores(grey(level))
        assert issues(found, THRESHOLDS.model_copy(update=off), 500) == ()


def test_small_originals_are_not_called_blurred() -> None:
    pixels = blurred(photograph(), 12)
    assert "blurred" in judge(pixels, 224)
    assert "blurred" not in judge(pixels, 223)


def test_handwritten_digits_have_no_issue() -> None:
    for item in digits.list_digits().images[::20]:
        assert judge(decode(item.read())[0], 8) == ()


def test_luminance_is_the_rounded_sum_of_whole_numbers() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    pixels[:, :112] = np.arange(224 * 112).reshape(224, 112, 1) % 256  # greys, which come out as they are
    thousandths = pixels.astype(np.int64) @ np.array([299, 587, 114])
    expected = float(((thousandths + 500) // 1000).mean()) / 255
    assert scores(pixels)["light"] == round(expected, 4)
