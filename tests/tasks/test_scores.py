"""The metrics that decide choices."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.scores import accuracy, log_loss


def test_log_loss_and_accuracy_are_those_of_the_textbook() -> None:
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]], np.float32)
    labels = np.array([0, 1, 1], np.int32)
    assert accuracy(probabilities, labels) == pytest.approx(2 / 3)
    assert log_loss(probabilities, labels) == pytest.approx(-np.log([0.5, 0.75, 1e-7]).mean(), rel=1e-6)


def test_log_loss_counts_each_example_by_its_weight() -> None:
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]], np.float32)
    labels = np.array([0, 1, 0])
    weights = np.array([1.0, 3.0, 0.0], np.float32)
    expected = (-np.log(0.5) - 3 * np.log(0.75)) / 4
    assert log_loss(probabilities, labels, weights) == pytest.approx(expected, rel=1e-6)
    assert log_loss(probabilities, labels, np.ones(3)) == pytest.approx(log_loss(probabilities, labels))
