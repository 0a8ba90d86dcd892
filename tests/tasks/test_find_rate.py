"""The learning-rate finder: it plots, suggests, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import features, find_rate
from tasks.errors import SettingsError
from tasks.settings import Settings
from tasks.vgg.training.learning_rate_finder import suggest
from tasks.workspace import LEARNING_RATE_PAGE, Workspace
from tests.conftest import contents, fill_source
from tests.tasks.steps import run_prepare, settings_for
from tests.tasks.vgg.training.miniature import QUICK, use_tiny_weights


def test_suggestion_is_a_tenth_of_where_the_loss_is_lowest() -> None:
    points = [(10.0**power, loss) for power, loss in zip(range(-3, 3), (0.7, 0.7, 0.5, 0.2, 0.9, 3.0), strict=True)]
    curve = suggest(points)
    assert curve.factors == tuple(factor for factor, _ in points)
    assert curve.suggested == pytest.approx(0.1)


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
    assert set(found) == {"head", "block5"}
    assert found["head"] / found["block5"] == pytest.approx(0.001 / 0.00003)
    after = contents(workspace)
    page = after.pop(LEARNING_RATE_PAGE).decode()
    assert after == before
    assert "<svg" in page
    assert "block5: 3e-05 now" in page


def test_recipe_without_a_learning_rate_is_reported(workspace: Path, change: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsError, match="has no learning rate"):
        find_rate.run(change(), Workspace.at(workspace), "feature_extraction", 5)
