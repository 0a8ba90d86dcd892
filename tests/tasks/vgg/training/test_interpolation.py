"""The share of the way from the weights before a phase to those after it."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.vgg.training.interpolation import BETWEEN, choose_share, mix


@pytest.mark.parametrize(
    ("at_start", "at_end", "between", "expected"),
    [
        (1.0, 0.9, (0.8, 0.5, 0.7), 0.5),
        (1.0, 0.4, (0.8, 0.5, 0.7), 1.0),
        (0.3, 0.4, (0.8, 0.5, 0.7), 0.0),
        (0.5, 0.5, (0.5, 0.5, 0.5), 0.0),
        (0.9, 0.5, (0.8, 0.5, 0.5), 0.5),
    ],
)
def test_lowest_loss_is_chosen_and_of_equal_ones_the_smallest_share(
    at_start: float, at_end: float, between: tuple[float, ...], expected: float
) -> None:
    losses = dict(zip(BETWEEN, between, strict=True))
    assert choose_share(at_start, at_end, losses.__getitem__) == expected


def test_ends_are_exact_and_the_middle_is_the_mean() -> None:
    rng = np.random.default_rng(0)
    start, end = ({"kernel": rng.normal(size=50).astype(np.float32)} for _ in range(2))
    np.testing.assert_array_equal(mix(start, end, 0)["kernel"], start["kernel"])
    np.testing.assert_array_equal(mix(start, end, 1)["kernel"], end["kernel"])
    middle = mix(start, end, 0.5)["kernel"]
    assert middle.dtype == np.float32
    np.testing.assert_allclose(middle, (start["kernel"] + end["kernel"]) / 2, atol=1e-6)
