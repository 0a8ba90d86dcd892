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
