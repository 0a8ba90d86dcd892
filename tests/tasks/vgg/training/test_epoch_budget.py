"""How many epochs the time allows."""

from __future__ import annotations

import pytest

from tasks.vgg.strategies import plan_phases
from tasks.vgg.training.epoch_budget import affordable_epochs, share_of_phase, tell_shortened
from tests.tasks.steps import Change


@pytest.mark.parametrize(
    ("done", "took_s", "left_s", "expected"),
    [
        (1, 60.0, 1000.0, 8),
        (1, 60.0, 200.0, 4),
        (2, 120.0, 60.0, 3),
        (2, 120.0, 59.0, 2),
        (1, 60.0, -500.0, 1),
        (1, 0.0, 10.0, 8),
    ],
)
def test_epochs_are_those_for_which_time_is_left(done: int, took_s: float, left_s: float, expected: int) -> None:
    assert affordable_epochs(8, done, took_s, left_s) == expected


def test_phases_that_are_left_get_equal_shares_of_the_time_that_is_left() -> None:
    assert share_of_phase(600, 0, 2) == 300
    assert share_of_phase(600, 200, 1) == 400


def test_what_a_budget_cuts_off_is_told(change: Change) -> None:
    settings = change()
    phases = plan_phases("progressive", settings.train, settings.augmentation)
    epochs = phases[0].epochs
    assert tell_shortened(5, phases, [{"planned": epochs}, {"planned": epochs}]) is None
    told = tell_shortened(2.5, phases, [{"planned": epochs}, {"planned": 1}])
    assert told == f"train.modern.budget_minutes=2.5 shortened block4 to 1 of {epochs} epochs."
