"""The learning-rate finder: it plots, suggests, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks import features, find_rate
from tasks.errors import SettingsError
from tasks.find_rate import NOTHING_FALLS
from tasks.settings import Settings
from tasks.vgg.training.learning_rate_finder import suggest
from tasks.workspace import LEARNING_RATE_PAGE, Workspace
from tests.conftest import contents, fill_source
from tests.tasks.steps import run_prepare, settings_for
from tests.tasks.vgg.training.miniature import QUICK, use_tiny_weights

STEPS = 60
FACTORS = np.logspace(-3, 3, STEPS)
RISES = 10.0
"""The factor from which the loss rises."""


def losses(falls: bool, seed: int) -> list[tuple[float, float]]:
    """Losses of batches: they differ by chance, fall from 0.01 on or not at all, and rise from 10 on."""
    random = np.random.default_rng(seed)
    trend = np.where(falls, np.clip(-0.1 * np.log10(FACTORS / 0.01), -0.3, 0), 0)
    rise = 0.5 * np.maximum(0, np.log10(FACTORS / RISES)) ** 2
    return list(
        zip(FACTORS.tolist(), (0.6 + trend + rise + random.normal(scale=0.04, size=STEPS)).tolist(), strict=True)
    )


@pytest.mark.parametrize("falls", [True, False])
def test_suggestion_is_a_tenth_of_where_the_loss_begins_to_rise(falls: bool) -> None:
    curves = [suggest(losses(falls, seed)) for seed in range(30)]
    suggested = np.log10([curve.suggested for curve in curves])
    assert all(abs(suggested - np.log10(RISES / 10)) < 0.8)
    assert suggested.std() < 0.2
    assert np.mean([curve.falls == falls for curve in curves]) >= 0.9


def test_curve_has_every_factor_and_smooth_losses() -> None:
    points = losses(True, 0)
    curve = suggest(points)
    assert curve.factors == tuple(factor for factor, _ in points)
    assert np.std(np.diff(curve.losses[:20])) < 0.5 * np.std(np.diff([loss for _, loss in points[:20]]))


def test_few_losses_are_enough() -> None:
    assert suggest([(0.001, 0.7), (1000.0, 0.6)]).suggested == pytest.approx(100)
    assert suggest([(0.001, 0.7)]).suggested == pytest.approx(0.0001)


@pytest.mark.slow
def test_finder_writes_a_plot_and_leaves_everything_else_as_it_was(
    workspace: Path, tmp_path: Path, change: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_weights(monkeypatch.setattr)
    settings = settings_for(change, fill_source(tmp_path / "source", 20), *QUICK, "strategies=[progressive]")
    run_prepare(settings, workspace)
    features.run(settings, Workspace.at(workspace))
    before = contents(workspace)
    found = find_rate.run(settings, Workspace.at(workspace), "progressive", 12)
    assert set(found.rates) == {"head", "block5"}
    assert found.rates["head"] / found.rates["block5"] == pytest.approx(0.001 / 0.00003)
    after = contents(workspace)
    page = after.pop(LEARNING_RATE_PAGE).decode()
    assert after == before
    assert "<svg" in page
    assert "block5: 3e-05 now" in page
    assert (NOTHING_FALLS in page) == (not found.falls)


def test_recipe_without_a_learning_rate_is_reported(workspace: Path, change: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsError, match="has no learning rate"):
        find_rate.run(change(), Workspace.at(workspace), "feature_extraction", 5)
