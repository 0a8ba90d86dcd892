"""The recipe by gradient descent: what its phases begin with."""

from __future__ import annotations

import numpy as np

from tasks.vgg.head import Dense, Head
from tasks.vgg.strategies import Phase
from tasks.vgg.training.gradient_training import for_head


def test_rate_of_a_bilinear_head_is_lower() -> None:
    phase = Phase("block5", ("block5",), 1, 1, {"head": 1.0, "block5": 2.0})
    layers = (Dense(np.zeros((4, 2), np.float32), np.zeros(2, np.float32), "softmax"),)
    assert for_head(phase, Head("average_maximum", layers), (7, 7, 512)) == phase
    assert for_head(phase, Head("bilinear", layers), (7, 7, 512)).rates == {"head": 1 / 16, "block5": 2.0}
