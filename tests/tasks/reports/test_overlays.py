"""The map over an image is warm where the image speaks for the class, and cool where it speaks against it."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.reports.overlays import describe_place, draw_overlay

GREY = np.full((224, 224, 3), 128, np.uint8)


def test_overlay_is_warm_above_zero_cool_below_and_clear_at_zero() -> None:
    places = np.zeros((7, 7))
    places[1, 1], places[5, 5] = 2.0, -2.0
    drawn = draw_overlay(GREY, places).astype(int)
    (warm, cool, clear) = (drawn[row, column] for row, column in ((48, 48), (176, 176), (48, 176)))
    assert warm[0] > warm[2] + 60
    assert cool[2] > cool[0] + 60
    assert np.abs(clear - 128).max() <= 3


def test_overlay_fades_smoothly_and_keeps_the_image_visible() -> None:
    places = np.zeros((7, 7))
    places[3, 3] = 1.0
    stripes = np.tile(np.repeat(np.array([60, 200], np.uint8), 8), 14)
    drawn = draw_overlay(np.broadcast_to(stripes[:, np.newaxis], (224, 224, 3)).copy(), places).astype(int)
    assert np.abs(np.diff(draw_overlay(GREY, places).astype(int), axis=1)).max() <= 6
    assert np.ptp(drawn[:, 112], axis=0).min() > 15  # also under the deepest colour


def test_map_of_nothing_shows_the_image_alone() -> None:
    assert np.array_equal(draw_overlay(GREY, np.zeros((7, 7))), GREY)


@pytest.mark.parametrize(
    ("row", "column", "words"), [(0, 0, "upper left"), (3, 3, "centre"), (6, 3, "bottom"), (3, 6, "right")]
)
def test_place_is_described_in_words(row: int, column: int, words: str) -> None:
    places = np.zeros((7, 7))
    places[row, column] = 1
    assert describe_place(places) == words
