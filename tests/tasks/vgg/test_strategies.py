"""Strategies: their training matches their descriptions, and lists of names follow from their files."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.errors import TrainingError
from tasks.settings import STRATEGIES, Settings
from tasks.vgg import strategies
from tasks.vgg.strategies import plan_phases
from tasks.vgg.strategies.base import Phase
from tasks.vgg.training.collapse import explain_collapse, require_finite
from tests.conftest import PROJECT
from tests.tasks.steps import Change

RECIPES = ("modern", "tutorial")
FOLDS = "5 folds of train and validation"


def phases(settings: Settings) -> Iterator[tuple[str, int, Phase]]:
    for strategy in STRATEGIES:
        for number, phase in enumerate(plan_phases(strategy, settings.train, settings.augmentation)):
            yield strategy, number, phase


def test_each_file_holds_the_strategy_of_its_name() -> None:
    files = {path.stem for path in (PROJECT / "tasks/vgg/strategies").glob("*.py")} - {"__init__", "base"}
    assert files == set(STRATEGIES) == set(strategies.BY_NAME)
    assert len({one.order for one in strategies.BY_NAME.values()}) == len(files)


def test_docs_list_the_strategies_in_their_order() -> None:
    table = re.findall(r"^\| `([a-z_]+)` \| [a-z]", (PROJECT / "docs/strategies.md").read_text(), re.MULTILINE)
    assert tuple(table) == STRATEGIES


def test_strategies_import_nothing_that_computes() -> None:
    code = "import sys, tasks.vgg.strategies; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout
    assert set(loaded.split()) & {"numpy", "tensorflow", "keras", "sklearn", "PIL", "pyarrow", "safetensors"} == set()


@pytest.mark.parametrize("recipe", RECIPES)
def test_advice_for_a_loss_of_nan_lowers_the_learning_rates_of_its_phase(change: Change, recipe: str) -> None:
    before = list(phases(change(f"train.recipe={recipe}")))
    for strategy, number, phase in before:
        with pytest.raises(TrainingError) as raised:
            require_finite(float("nan"), phase, 1, 3)
        assignment = re.search(r'make run SET="(.*)"', str(raised.value))
        assert assignment
        assert f'SET="{assignment[1]}"' in explain_collapse(phase, 5, 3, 0.69, 0.69)
        after = {(name, place): one for name, place, one in phases(change(assignment[1]))}[strategy, number]
        slower = [name for name, rate in after.learning_rates.items() if rate < phase.learning_rates[name] / 5]
        assert slower == list(phase.unfrozen) or slower == ["head", *phase.unfrozen], assignment[1]
        change(f"{phase.setting.name}={phase.setting.value}")


def test_second_phase_of_the_tutorial_has_a_learning_rate_of_its_own(change: Change) -> None:
    settings = change("train.recipe=tutorial")
    head, everything = plan_phases("progressive", settings.train, settings.augmentation)
    with pytest.raises(TrainingError, match=r'SET="train\.tutorial\.learning_rate=0\.0001"'):
        require_finite(float("nan"), head, 0, 0)
    with pytest.raises(TrainingError, match=r'SET="train\.tutorial\.unfrozen_learning_rate=1\.0e-06"'):
        require_finite(float("nan"), everything, 0, 0)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_description_says_what_happens_to_the_convolutions(change: Change, strategy: str, recipe: str) -> None:
    settings = change(f"train.recipe={recipe}")
    text = strategies.BY_NAME[strategy].describe(recipe, {})
    unfreezes = any(phase.unfrozen for name, _, phase in phases(settings) if name == strategy)
    assert ("stay as they are" in text) != unfreezes
    assert ("trained together with" in text) == unfreezes
    assert text.endswith(".")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_description_names_a_linear_model_only_where_training_begins_with_one(change: Change, strategy: str) -> None:
    one = strategies.BY_NAME[strategy]
    assert ("regularized linear model" in one.describe("modern", {})) == one.begins_with_linear_probe(change().train)
    assert "linear" not in one.describe("tutorial", {})


def test_description_says_what_chose_and_whether_training_improved_anything() -> None:
    one = strategies.BY_NAME["progressive"]
    summary: dict[str, Any] = {"chosen_on": FOLDS, "phases": [{"best_epoch": 3}, {"best_epoch": 0}]}
    assert "chosen on 5 folds of train and validation." in one.describe("modern", summary)
    assert "chosen on the validation images." in one.describe("modern", {**summary, "chosen_on": "validation"})
    unchanged = "the result is this linear model"
    assert unchanged not in one.describe("modern", summary)
    assert unchanged in one.describe("modern", {**summary, "phases": [{"best_epoch": 0}]})
    assert unchanged not in strategies.BY_NAME["feature_extraction"].describe("modern", {"chosen_on": FOLDS})
    assert "mixture" not in one.describe("modern", {**summary, "phases": [{"best_epoch": 3, "share": 1.0}]})
    half = {"best_epoch": 3, "share": 0.5}
    assert "they lie 50 % of the way from those before" in one.describe("modern", {**summary, "phases": [half]})
