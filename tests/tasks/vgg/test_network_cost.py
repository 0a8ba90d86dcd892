"""The cost of a training in passes through the network, counted by hand."""

from __future__ import annotations

import pytest

from tasks.vgg.boundaries import share_below
from tasks.vgg.network_cost import network_passes
from tasks.vgg.strategies.base import LearningRateSetting, Phase

SETTING = LearningRateSetting("train.x", 0.1)


def phase(unfrozen: tuple[str, ...], views: int = 0, patience: int | None = None) -> Phase:
    return Phase("p", unfrozen, 9, 32, {}, SETTING, views=views, patience=patience)


def test_a_linear_probe_costs_one_pass_an_image():
    assert network_passes((), {}, 80, 20, refitted=True) == 100


def test_a_step_on_the_whole_network_costs_three_passes_and_a_measurement_one():
    every = phase(("block1", "block2", "block3", "block4", "block5"))
    summary = {"phases": [{"epochs": 4, "best_epoch": 2}], "starts_from": ["images"]}
    assert network_passes((every,), summary, 80, 20, refitted=False) == pytest.approx(100 + 4 * (3 * 80 + 20))
    assert network_passes((every,), summary, 80, 20, refitted=True) == pytest.approx(100 + 4 * 260 + 2 * 300)


@pytest.mark.parametrize(("unfrozen", "more"), [(("block1", "block2", "block3", "block4", "block5"), 7), ((), 4)])
def test_early_stopping_measures_the_start_and_the_mixed_weights(unfrozen: tuple[str, ...], more: int):
    """The start and, from the second epoch on, a mean; where blocks are trained, also three mixtures with the start."""
    stopping, plain = phase(unfrozen, patience=2), phase(unfrozen)
    summary = {"phases": [{"epochs": 4, "best_epoch": 2}], "starts_from": ["images"]}
    costs = [network_passes((one,), summary, 80, 20, refitted=True) for one in (stopping, plain)]
    assert costs[0] - costs[1] == pytest.approx(more * 20)


def test_a_cache_is_filled_once_and_spares_the_frozen_blocks():
    top, below = phase(("block5",), views=3), share_below("block4_pool")
    note = [{"epochs": 5, "best_epoch": 5}]
    cached = network_passes((top,), {"phases": note, "starts_from": ["block4_pool"]}, 80, 20, refitted=False)
    assert cached == pytest.approx(100 + below * (4 * 80 + 20) + 5 * (1 - below) * (3 * 80 + 20))
    computed = network_passes((top,), {"phases": note, "starts_from": ["images"]}, 80, 20, refitted=False)
    assert computed == pytest.approx(100 + 5 * (below * 100 + (1 - below) * 260))


def test_phases_that_were_not_reached_cost_nothing():
    top, notes = phase(("block5",)), [{"epochs": 1, "best_epoch": 0}]
    two = network_passes((top, top), {"phases": notes, "starts_from": ["images"] * 2}, 8, 2, refitted=False)
    assert two == network_passes((top,), {"phases": notes, "starts_from": ["images"]}, 8, 2, refitted=False)
