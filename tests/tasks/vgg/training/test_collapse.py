"""Failed trainings are detected and explained; trainings that are only bad are not reported."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tasks.errors import TrainingError
from tasks.vgg.strategies.base import LearningRateSetting, Phase
from tasks.vgg.training.collapse import chance_loss, explain_collapse, is_at_chance, require_finite

SETTING = LearningRateSetting("train.tutorial.learning_rate", 1e-3)
PHASE = Phase("all", ("block5",), 10, 32, {"head": 1e-3, "block5": 1e-3}, SETTING)
ONE_ANSWER = np.array([[0.6, 0.4], [0.55, 0.45]], np.float32)
TWO_ANSWERS = np.array([[0.6, 0.4], [0.45, 0.55]], np.float32)


def test_chance_is_the_entropy_of_the_classes() -> None:
    labels = np.array([0, 0, 1, 1], np.int32)
    assert chance_loss(labels, np.ones(4, np.float32)) == pytest.approx(math.log(2))
    rare = np.array([0, 0, 0, 2], np.int32)
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert chance_loss(rare, np.ones(4, np.float32)) == pytest.approx(expected)
    balanced = np.array([2 / 3] * 3 + [2], np.float32)
    assert chance_loss(rare, balanced) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("loss", "probabilities", "lost"),
    [
        (0.98 * math.log(2), ONE_ANSWER, False),  # it knows more than how frequent the classes are
        (math.log(2), ONE_ANSWER, True),
        (math.log(2), TWO_ANSWERS, False),  # it tells images apart
        (0.3, ONE_ANSWER, False),  # it has learnt; so few images may all be of one class
    ],
)
def test_chance_needs_one_answer_and_the_loss_of_chance(loss: float, probabilities: np.ndarray, lost: bool) -> None:
    assert is_at_chance(loss, math.log(2), lambda: probabilities) == lost


def test_collapse_is_explained_with_its_cure() -> None:
    text = explain_collapse(PHASE, 5, 3, 0.6931, math.log(2))
    assert "since epoch 3" in text
    assert "0.693" in text
    assert "0.001" in text
    assert "train.recipe=modern" in text
    modern = replace(PHASE, setting=LearningRateSetting("train.modern.fine_tuning.block_learning_rate", 3e-5))
    assert "train.recipe=modern" not in explain_collapse(modern, 5, 3, 0.6931, math.log(2))


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_loss_of_nan_stops_with_the_setting_to_change(loss: float) -> None:
    with pytest.raises(TrainingError, match=r"step 4 of epoch 2.*train\.tutorial\.learning_rate=0\.0001"):
        require_finite(loss, PHASE, 1, 3)
    require_finite(1e9, PHASE, 1, 3)
