"""`compare.budget_minutes` is spent on what promises most, and what was decided is in params.yaml."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tasks.budget import decide, estimate_minutes, must_decide, wanted_folds
from tasks.settings import STRATEGIES, Settings

Change = Callable[..., Settings]
TRAINED = {"feature_extraction": 30, "head_replacement": 120, "fine_tuning": 1500, "progressive": 600}


def history(**rates: float) -> list[dict[str, Any]]:
    """One run of each strategy, seconds."""
    return [{"stage": f"train@{name}", "seconds": seconds} for name, seconds in {**TRAINED, **rates}.items()]


@pytest.mark.parametrize(
    ("minutes", "kept", "left_out"),
    [
        (0.1, ["feature_extraction"], [["head_replacement", 2], ["fine_tuning", 25], ["progressive", 10]]),
        (5, ["feature_extraction", "head_replacement"], [["fine_tuning", 25], ["progressive", 10]]),
        (12, ["feature_extraction", "progressive"], [["head_replacement", 2], ["fine_tuning", 25]]),
        (13, ["feature_extraction", "head_replacement", "progressive"], [["fine_tuning", 25]]),
        (40, list(STRATEGIES), []),
    ],
)
def test_budget_goes_to_what_trains_blocks_the_cheapest_first_and_then_to_heads(
    minutes: float, kept: list[str], left_out: list[Any], change: Change
) -> None:
    settings = change(f"compare.budget_minutes={minutes}")
    found = decide(settings, STRATEGIES, 100, history())
    assert found == {"strategies": kept, "compare": {"left_out": left_out}}


def test_strategies_keep_their_order_and_the_cheapest_is_always_trained(change: Change) -> None:
    wanted = ["progressive", "head_replacement", "feature_extraction"]
    found = decide(change("compare.budget_minutes=13"), wanted, 100, history())
    assert found["strategies"] == wanted
    assert decide(change("compare.budget_minutes=0.1"), wanted, 100, history())["strategies"] == ["feature_extraction"]


def test_without_a_budget_all_wanted_strategies_are_trained(change: Change) -> None:
    found = decide(change("compare.budget_minutes=null"), STRATEGIES, 100, history())
    assert found == {"strategies": list(STRATEGIES), "compare": {"left_out": None}}


def test_training_that_never_ran_takes_its_passes_at_the_rate_of_the_network(change: Change) -> None:
    """All blocks, 2 epochs and 2 again, of 80 of 100 images, three passes each; 10 or 80 images/s."""
    blocks = "train.modern.fine_tuning.blocks=5"
    settings = change(blocks, "train.modern.fine_tuning.epochs=2", "prepare.test_fraction=0.2", "augmentation.count=0")
    assert estimate_minutes("fine_tuning", settings, 100, []) == pytest.approx(4 * 80 * 3 / 10 / 60, abs=0.1)
    measured = [{"stage": "features", "seconds": 9, "images_per_s": rate} for rate in (0.0, 80.0)]
    assert estimate_minutes("fine_tuning", settings, 1000, measured) == pytest.approx(4 * 800 * 3 / 80 / 60, abs=0.1)
    assert estimate_minutes("feature_extraction", settings, 100, []) == 0


def test_training_whose_time_is_unknown_is_left_out(change: Change) -> None:
    found = decide(change("compare.budget_minutes=1000"), STRATEGIES[:2], None, history()[:1])
    assert found == {"strategies": ["feature_extraction"], "compare": {"left_out": [["head_replacement", None]]}}


@pytest.mark.parametrize(
    ("now", "changes", "expected"),
    [
        ([], {}, False),
        ([], {"strategies": ["progressive"]}, False),
        (["compare.budget_minutes=9"], {}, True),  # by hand, in params.yaml
        (["compare.budget_minutes=9", "compare.left_out=[]"], {}, False),
        (["compare.budget_minutes=9", "compare.left_out=[]"], {"train": {"seed": 1}}, False),
        (["compare.budget_minutes=9", "compare.left_out=[]"], {"strategies": ["progressive"]}, True),
        (["compare.budget_minutes=9", "compare.left_out=[]"], {"compare": {"budget_minutes": 9}}, True),
        (["compare.left_out=[]"], {"compare": {"budget_minutes": None}}, True),
        (["compare.budget_minutes=9", "compare.left_out=[]"], {"compare": {"left_out": []}}, False),
        (["compare.budget_minutes=9"], {"compare": {"left_out": None}}, True),
        (["compare.budget_minutes=9", "compare.left_out=[]"], {"compare": {"folds": 5}}, True),
        (["compare.folds=5"], {"compare": {"folds": 5}}, False),
    ],
)
def test_run_decides_if_it_is_told_something_else_or_nobody_has_decided(
    now: list[str], changes: dict[str, Any], expected: bool, change: Change
) -> None:
    assert must_decide(change(*now), changes) is expected


@pytest.mark.parametrize(
    ("minutes", "kept", "folds", "left_out"),
    [
        (37.5, ["feature_extraction", "head_replacement", "progressive"], 3, []),
        (37.4, ["feature_extraction", "head_replacement", "progressive"], None, [["3 folds", 25]]),
        (12.0, ["feature_extraction", "progressive"], None, [["head_replacement", 2], ["3 folds", 25]]),
    ],
)
def test_folds_are_left_out_before_strategies_are(
    minutes: float, kept: list[str], folds: int | None, left_out: list[Any], change: Change
) -> None:
    """Three folds take three times as long as none, and a training that had folds counts as one of them."""
    with_folds = [{"stage": "train@progressive", "seconds": 6000, "folds": 10}]
    runs = [one for one in history() if one["stage"] != "train@progressive"] + with_folds
    wanted = ["feature_extraction", "head_replacement", "progressive"]
    found = decide(change(f"compare.budget_minutes={minutes}", "compare.folds=3"), wanted, 100, runs, 3)
    assert found == {"strategies": kept, "compare": {"left_out": left_out, "folds": folds}}


def test_folds_whose_time_is_unknown_are_left_out_and_those_of_the_tutorial_cost_nothing(change: Change) -> None:
    settings = change("compare.budget_minutes=1000", "compare.folds=4")
    found = decide(settings, STRATEGIES[:2], None, history()[:1], 4)
    assert found["compare"] == {"left_out": [["head_replacement", None], ["4 folds", None]], "folds": None}
    found = decide(change("train.recipe=tutorial"), STRATEGIES[:1], 100, history(), 4)
    assert found["compare"] == {"left_out": [], "folds": 4}


def test_folds_that_were_left_out_are_wanted_until_a_run_is_told_otherwise(change: Change) -> None:
    settings = change("compare.budget_minutes=1", "compare.left_out=[[fine_tuning, 4], ['5 folds', null]]")
    assert wanted_folds(settings, {"compare": {"budget_minutes": 9}}) == 5
    assert wanted_folds(settings, {"compare": {"folds": None}}) is None
    assert wanted_folds(change("compare.folds=3"), {}) == 3
    assert wanted_folds(change("compare.folds=null", "compare.left_out=[]"), {}) is None
    assert decide(change("compare.budget_minutes=null"), STRATEGIES[:1], 100, [], 5)["compare"] == {
        "left_out": None,
        "folds": 5,
    }
