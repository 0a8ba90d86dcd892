"""The recipes of gradient descent: what their phases begin with."""

from __future__ import annotations

import numpy as np

from tasks.vgg.head import Dense, Head
from tasks.vgg.strategies.base import LearningRateSetting, Phase
from tasks.vgg.training.gradient_training import scale_head_learning_rate


def test_learning_rate_of_a_bilinear_head_is_lower() -> None:
    phase = Phase("block5", ("block5",), 1, 1, {"head": 1.0, "block5": 2.0}, LearningRateSetting("none", 1.0))
    layers = (Dense(np.zeros((4, 2), np.float32), np.zeros(2, np.float32), "softmax"),)
    assert scale_head_learning_rate(phase, Head("average_maximum", layers), (7, 7, 512)) == phase
    assert scale_head_learning_rate(phase, Head("bilinear", layers), (7, 7, 512)).learning_rates == {
        "head": 1 / 16,
        "block5": 2.0,
    }
