"""The share of the way that validation chooses, and the epochs that a budget allows, in complete trainings."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tasks import train
from tasks.settings import Settings
from tasks.vgg import strategies
from tasks.vgg.trained_model import load_trained
from tasks.vgg.training import loop
from tasks.vgg.training.interpolation import mix
from tasks.workspace import TRAINED, Workspace
from tests.tasks.steps import Change

pytestmark = pytest.mark.slow


def test_phase_gives_the_share_of_the_way_that_validation_chose(
    tiny: Settings, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, mixed = loop._PhaseTraining._measure, []
    losses = iter([0.0, -1.0, -2.0, 5.0, 5.0, -9.0, 5.0])  # before, after both epochs, their mean, and between
    monkeypatch.setattr(loop, "is_at_chance", lambda *_: False)
    monkeypatch.setattr(loop._PhaseTraining, "_measure", lambda self: (next(losses), plain(self)[1]))

    def mix_and_note(start: Any, end: Any, share: float) -> Any:
        mixed.append((share, mix(start, end, share)))
        return mixed[-1][1]

    monkeypatch.setattr(loop, "mix", mix_and_note)
    train.run(tiny, Workspace.at(workspace), "fine_tuning")
    trained = load_trained(workspace / TRAINED / "fine_tuning")
    [note] = trained.summary["phases"]
    assert (note["share"], note["best_epoch"]) == (0.5, 2)
    assert [share for share, _ in mixed] == [0.5, 0.25, 0.5, 0.75, 0.5, 0.5]  # first the mean; last: chosen, refitted
    for name, value in trained.backbone.items():
        np.testing.assert_array_equal(mixed[-1][1][name], value)
        assert not np.array_equal(mixed[-2][1][name], value)


def test_phase_gives_the_mean_of_epochs_that_validation_chose(
    tiny: Settings, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, epochs = loop._PhaseTraining, []
    plain, finish = training._measure, training._finish_epoch
    losses = iter([0.0, -1.0, -0.5, -2.0, 5.0, 5.0, 5.0])  # before, after both epochs, their mean, and between

    def finish_and_note(self: Any) -> Any:
        epochs.append(self._network.tensors())
        return finish(self)

    monkeypatch.setattr(loop, "is_at_chance", lambda *_: False)
    monkeypatch.setattr(training, "_measure", lambda self: (next(losses), plain(self)[1]))
    monkeypatch.setattr(training, "_finish_epoch", finish_and_note)
    train.run(tiny, Workspace.at(workspace), "fine_tuning")
    trained = load_trained(workspace / TRAINED / "fine_tuning")
    [note] = trained.summary["phases"]
    assert (note["averaged"], note["best_epoch"], note["share"]) == ([1, 2], 2, 1.0)
    assert "the mean of those after 2 epochs" in strategies.BY_NAME["fine_tuning"].describe("modern", trained.summary)
    _, _, first, second = epochs  # the refit averages the same epochs
    for name, value in trained.backbone.items():
        np.testing.assert_allclose(value, (first[name] + second[name]) / 2, atol=1e-6)
        assert not np.array_equal(value, second[name])


def test_budget_shortens_the_phases_and_the_run_says_so(
    tiny: Settings, workspace: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = change("train.modern.budget_minutes=1", "train.modern.refit_with_validation=false")
    seconds, losses, plain = itertools.count(0, 60), itertools.count(0.0, -1.0), loop._PhaseTraining._measure
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(loop, "is_at_chance", lambda *_: False)
    monkeypatch.setattr(loop._PhaseTraining, "_measure", lambda self: (next(losses), plain(self)[1]))
    said = str(train.run(settings, Workspace.at(workspace), "progressive"))
    told = "train.modern.budget_minutes=1 shortened block5 to 1 of 2 epochs and block4 to 1 of 2 epochs"
    assert said.endswith(told)
    summary = load_trained(workspace / TRAINED / "progressive").summary
    assert told in strategies.BY_NAME["progressive"].describe("modern", summary)
    assert [(note["epochs"], note["planned"]) for note in summary["phases"]] == [(1, 1), (1, 1)]
    assert len(summary["history"]["loss"]) == 2
    settings = change("train.modern.budget_minutes=1000", "train.modern.refit_with_validation=false")
    assert "budget" not in str(train.run(settings, Workspace.at(workspace), "progressive"))
