"""The report's sentences claim no more than so many images can tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.reports import comparison_wording, wording
from tasks.reports.metrics import calibration, measure


def predictions(confidence: float, correct: int, n: int, groups: np.ndarray | None = None) -> tuple[Any, Any]:
    """Metrics and calibration of a model with one confidence for all images, of which the first are right."""
    probabilities = np.tile([confidence, 1 - confidence], (n, 1))
    labels = (np.arange(n) >= correct).astype(int)
    return measure(probabilities, labels, ["ants", "bees"], groups), calibration(probabilities, labels, groups)


@pytest.mark.parametrize(
    ("confidence", "correct", "n", "expected"),
    [
        (0.926, 18, 22, "22 images are too few to tell whether the model is well calibrated"),
        (0.93, 930, 1000, "the model is well calibrated: on average, confidence and accuracy differ by at most 1.8"),
        (0.99, 930, 1000, "the model is overconfident: its confidence is 4.6 to 7.8 percentage points too high"),
        (0.7, 930, 1000, "the model is underconfident: its confidence is 21.2 to 24.4 percentage points too low"),
    ],
)
def test_calibration_is_called_good_only_if_the_images_can_tell(
    confidence: float, correct: int, n: int, expected: str
) -> None:
    text = wording.calibration_verdict(*predictions(confidence, correct, n))
    assert expected in text
    assert ("well calibrated:" in text) == (n == 1000 and confidence == 0.93)


def test_calibration_on_few_images_tells_how_wrong_the_confidence_may_be() -> None:
    text = wording.calibration_verdict(*predictions(0.926, 18, 22))
    assert "may be up to 31.1 percentage points too high or up to 0.1 percentage points too low" in text


@pytest.mark.parametrize(("n_groups", "few"), [(5, True), (20, False)])
def test_groups_are_told_and_whether_they_are_too_few(n_groups: int, few: bool) -> None:
    test, _ = predictions(0.9, 900, 1000, np.arange(1000) % n_groups)
    text = wording.baseline_verdict(test)
    assert f"The 1,000 test images belong to {n_groups} groups" in text
    assert ("little about the accuracy on images of other groups" in text) == few


def test_groups_are_not_mentioned_if_every_image_is_alone() -> None:
    test, _ = predictions(0.9, 900, 1000)
    assert "group" not in wording.baseline_verdict(test)
    assert wording.interval_method(test) == "Wilson"


def test_largest_group_decides_whether_groups_are_too_few() -> None:
    test, _ = predictions(0.9, 90, 100, np.maximum(np.arange(100) - 60, 0))
    assert test["n_groups"] == 40
    assert "as much as 3 groups of equal size: little about" in wording.baseline_verdict(test)


def test_card_page_and_report_tell_the_groups() -> None:
    from tasks.reports.markdown_report import render_markdown
    from tasks.reports.model_card import render_model_card
    from tests.tasks.reports.evaluations import make_evaluation, render

    evaluation = make_evaluation(["ants", "bees"], strategies=2, groups=np.arange(60) % 6)
    for text in (render(evaluation), render_markdown(evaluation, [], {}), render_model_card(evaluation)):
        assert "60 test images belong to 6 groups" in text


def recommended(costs: dict[str, int], ci95: list[float], difference: float = 0.02) -> str:
    strategies = {name: {"problem": None, "training": {"network_passes": cost}} for name, cost in costs.items()}
    pair = {"second": "probe", "difference": difference, "difference_ci95": ci95}
    return comparison_wording.recommendation({"champion": "deep", "strategies": strategies, "comparisons": [pair]})


def test_a_cheaper_strategy_that_is_not_clearly_worse_is_recommended_if_time_matters() -> None:
    text = recommended({"deep": 6000, "probe": 300}, [-0.01, 0.05])
    assert text.startswith("probe does about as well as the champion, deep, for 5 % of the work")
    assert "-2.0 percentage points (95 % confidence interval -5.0 to +1.0)" in text
    assert text.endswith("take probe.")
    assert "differs by +0.0 percentage points" in recommended({"deep": 6000, "probe": 300}, [-0.01, 0.01], 0.0)


def test_the_champion_is_recommended_if_it_is_clearly_better_or_cheaper() -> None:
    for costs, ci95 in (({"deep": 6000, "probe": 300}, [0.01, 0.03]), ({"deep": 300, "probe": 6000}, [-0.01, 0.05])):
        assert recommended(costs, ci95).startswith(
            "Take deep. On the test images, the accuracy of probe differs by -2.0"
        )


def test_promise_is_told_as_kept_only_if_a_threshold_keeps_it() -> None:
    def told(threshold: float | None) -> str:
        promise = {"class": None, "threshold": threshold, "images": 56, "images_needed": 133, "test_answered": 0.7}
        return wording.answers_verdict({"wanted_precision": 0.95, "promises": [promise]})

    assert "keeps the promise" not in told(None)
    assert "keeps the promise" in told(0.8)


def test_certainty_names_how_often_the_champion_is_chosen_and_what_choosing_costs() -> None:
    choice = {"images": 1056, "folds": None, "resamples": 500, "lost": 0.0034}
    choice["chosen"] = {"flat": 0.25, "deep": 0.75, "other": 0.0}
    said = comparison_wording.certainty_sentence("deep", choice).replace("\xa0", " ")
    assert "It rests on 1,056 validation images. " in said
    assert "Of 500 resamples of them 75.0 % choose deep, flat in 25.0 %. " in said
    assert "loses 0.3 points of accuracy on them on average" in said
    assert "With compare.folds=5 all images of train and validation choose" in said
    sure = {**choice, "chosen": {"flat": 0.05, "deep": 0.95}}
    assert "compare.folds" not in comparison_wording.certainty_sentence("deep", sure)
    by_folds = comparison_wording.certainty_sentence("deep", {**choice, "folds": 5})
    assert "It rests on 1,056 images of train and validation, in 5 folds. " in by_folds
    assert "compare.folds" not in by_folds
    assert comparison_wording.certainty_sentence("deep", None) == ""
