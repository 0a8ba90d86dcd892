"""Thresholds with a promise: exact on cases counted by hand, kept on new images in simulations."""

from __future__ import annotations

from math import ceil, log

import numpy as np
import pytest

from tasks.reports import answers
from tasks.reports.answers import Predictions, answer_rule, precision_curve, promise_precision

MANY = 200_000


def alone(n: int) -> np.ndarray:
    return np.arange(n)


def test_answers_all_images_if_all_are_right():
    n = ceil(log(0.05) / log(0.98))
    promise = promise_precision(np.linspace(0.5, 0.9, n), np.ones(n, bool), alone(n), 0.98)
    assert (promise.threshold, promise.answered, promise.images_needed) == (0.0, 1.0, None)


def test_promises_nothing_with_one_image_less_than_can_prove_it_and_says_how_many_would_do():
    n = ceil(log(0.05) / log(0.98)) - 1
    promise = promise_precision(np.linspace(0.5, 0.9, n), np.ones(n, bool), alone(n), 0.98)
    assert promise.threshold is None
    assert promise.answered is None
    assert n < promise.images_needed < 2 * n


def test_says_that_no_number_of_images_would_do_if_even_the_surest_answers_are_wrong_too_often():
    hits = np.arange(1000) % 4 > 0
    promise = promise_precision(np.linspace(0.9, 0.5, 1000), hits, alone(1000), 0.98)
    assert (promise.threshold, promise.images_needed) == (None, None)


def test_excludes_the_images_below_the_threshold():
    confidence = np.concatenate([np.linspace(0.99, 0.95, 400), np.linspace(0.9, 0.5, 400)])
    hits = np.arange(800) < 400
    promise = promise_precision(confidence, hits, alone(800), 0.95)
    assert (confidence >= promise.threshold).sum() == round(promise.answered * 800)
    assert 400 <= promise.answered * 800 < 430


def test_counts_images_that_belong_together_once():
    together = np.repeat(np.arange(20), 50)
    promise = promise_precision(np.linspace(0.5, 0.9, 1000), np.ones(1000, bool), together, 0.95)
    assert promise.images == 20
    assert promise.threshold is None


def test_no_threshold_lies_between_equal_confidences():
    hits = np.concatenate([np.ones(300, bool), np.zeros(300, bool)])
    assert promise_precision(np.full(600, 0.9), hits, alone(600), 0.9).threshold is None


@pytest.mark.parametrize(
    "right_at", [lambda c: c, lambda c: np.full_like(c, 0.949), lambda c: np.where(c > 0.9, 0.97, 0.7)]
)
@pytest.mark.parametrize("n", [120, 600])
def test_keeps_its_promise_in_at_least_95_of_100_simulated_data_sets(right_at, n):
    rng = np.random.default_rng(3)
    world = np.sort(rng.beta(4, 1, MANY) / 2 + 0.5)
    right_above = np.cumsum(right_at(world)[::-1])[::-1] / np.arange(MANY, 0, -1)
    broken = 0
    for _ in range(1000):
        confidence = rng.beta(4, 1, n) / 2 + 0.5
        hits = rng.random(n) < right_at(confidence)
        threshold = promise_precision(confidence, hits, alone(n), 0.95).threshold
        broken += threshold is not None and right_above[np.searchsorted(world, threshold)] < 0.95
    assert broken <= 50 + 2 * np.sqrt(1000 * 0.05 * 0.95)


def test_the_curve_begins_with_the_surest_image_and_ends_with_all():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]], np.float32)
    rows = precision_curve(probabilities, np.array([0, 1, 1, 1]))
    assert [row["precision"] for row in rows] == [1.0, 1.0, 1.0, 0.75]
    assert [row["answered"] for row in rows] == [0.25, 0.5, 0.75, 1.0]


def test_images_are_not_gone_through_for_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    predict = answers.predict
    monkeypatch.setattr(answers, "predict", lambda values: [sizes.append(len(values)), predict(values)][1])
    labels = np.repeat(np.arange(30), 4)
    some = Predictions(np.eye(30)[labels] * 0.9 + 0.1 / 30, labels, np.arange(len(labels)))
    rule = answer_rule(some, some, [str(number) for number in range(30)], 0.9, each_class=True)
    assert [promise["n"] for promise in rule["promises"]] == [4] * 30
    assert sizes.count(len(labels)) <= 3
