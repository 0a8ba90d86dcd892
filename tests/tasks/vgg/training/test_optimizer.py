"""The optimizer: the schedule times each layer's learning rate, and nothing else that moves weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tasks.vgg.head import new_head
from tasks.vgg.strategies.base import LearningRateSetting, Phase
from tasks.vgg.training.network import Classifier, build_network
from tasks.vgg.training.optimizer import make_optimizer, schedule_at
from tests.tasks.vgg.small_weights import tiny_weights

RATES = {"head": 1e-2, "block5": 1e-4}


def phase(**changes: Any) -> Phase:
    return replace(Phase("x", ("block5",), 1, 4, RATES, LearningRateSetting("none", 1.0)), **changes)


def test_constant_learning_rates_stay() -> None:
    assert [schedule_at(phase(), step, 10) for step in (0, 5, 9)] == [1.0] * 3


def test_cosine_rises_over_the_warm_up_and_falls_to_nothing() -> None:
    rates = [schedule_at(phase(schedule="cosine", warmup_fraction=0.2), step, 50) for step in range(50)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01


@pytest.mark.slow
def test_each_layer_moves_at_its_own_rate_and_by_its_gradient_alone() -> None:
    classifier = Classifier(tiny_weights(), new_head("average_maximum", (7, 7, 8), None, 2, 0))
    network = build_network(classifier, "block4_pool", (14, 14, 6), ("block5",), "float32")
    assert {name.split("_")[0] for name in network.variables} == {"head", "block5"}
    optimizer = make_optimizer(phase(), network.variables)
    begin = network.tensors()
    variables = list(network.variables.values())
    optimizer.apply([np.ones(variable.shape, np.float32) for variable in variables], variables)
    for name, value in network.tensors().items():
        np.testing.assert_allclose(value, begin[name] - rate_of(name), atol=2e-6)  # Adam's first step is the rate
    for variable in variables:
        variable.assign(variable + 1.0)  # a pull to anywhere is seen far away only
    before = network.tensors()
    optimizer.apply([np.zeros(variable.shape, np.float32) for variable in variables], variables)
    momentum = 0.09 / 0.19 / np.sqrt(0.000999 / 0.001999)  # Adam's second step after gradients of 1 and 0
    for name, value in network.tensors().items():
        np.testing.assert_allclose(before[name] - value, rate_of(name) * momentum, atol=1e-6, err_msg=name)


def rate_of(name: str) -> float:
    return RATES[name.split("_")[0]]
