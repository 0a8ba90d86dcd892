"""The summary says what the figures say, and tells a next step for each thing that is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.reports.advice import MOST_STEPS, summarise
from tasks.reports.metrics import measure
from tests.tasks.reports.evaluations import make_evaluation, render

HAVE, SURE, NEXT = "What you have", "How sure it is", "What to do next"
PROMISE = {
    "class": None,
    "threshold": 0.9,
    "answered": 0.6,
    "images": 244,
    "images_needed": None,
    "n": 60,
    "test_answered": 0.601,
    "test_precision": 0.99,
    "test_precision_ci95": [0.94, 1.0],
}


def make(classes: list[str] | None = None, **parts: Any) -> dict[str, Any]:
    """An evaluation of which there is nothing to improve but what the parts say."""
    evaluation = make_evaluation(classes or ["ants", "bees", "none"], n=120)
    champion = evaluation["strategies"]["strategy_0"]
    labels = np.repeat(np.arange(len(evaluation["classes"])), 40)
    probabilities = np.eye(len(evaluation["classes"]))[labels] * 0.9 + 0.1 / len(evaluation["classes"])
    champion["test"] = measure(probabilities, labels, evaluation["classes"])
    evaluation["weak"]["slices"] = []
    evaluation["mistakes"] = evaluation["why"]["mistakes"] = []
    evaluation["answers"] |= {"wanted_precision": 0.95, "each_class": False, "promises": [PROMISE]}
    return evaluation | parts


def told(evaluation: dict[str, Any], heading: str) -> str:
    return "\n".join(f"{line.text} {line.command}".strip() for line in summarise(evaluation)[heading])


def test_summary_of_a_good_model() -> None:
    evaluation = make()
    assert "9 images from demo were accepted" in told(evaluation, HAVE)
    assert "The model was made by strategy_0; it learned from 9 images." in told(evaluation, HAVE)
    assert "It finds 100.0\u00a0% of “ants”, the least of all classes" in told(evaluation, HAVE)
    sure = told(evaluation, SURE)
    assert "It is clearly better than always answering “ants”, which is right for 33.3\u00a0%." in sure
    assert "from a confidence of 90.0\u00a0%: 60.1\u00a0% of the test images get an answer." in sure
    assert "Of drawings and noise, it calls 100\u00a0% foreign" in sure
    assert "foreign" not in told(make(foreign=None), SURE)
    assert told(evaluation, NEXT) == "See whether another strategy is worth its time: make run STRATEGY=all"
    assert "make run SET=" in told({**evaluation, "what_if": None}, NEXT)


def test_images_that_belong_to_validation_count_if_the_model_learned_from_them() -> None:
    evaluation = make()
    evaluation["strategies"]["strategy_0"]["training"]["refitted_with_validation"] = True
    assert "it learned from 12 images." in told(evaluation, HAVE)


@pytest.mark.parametrize(("near", "text"), [("bees", "Look at 2 mistakes whose labels may be wrong"), ("ants", None)])
def test_mistakes_among_images_of_the_predicted_label_are_worth_a_look(near: str, text: str | None) -> None:
    found = make_evaluation(["ants", "bees", "none"])
    mistakes = [{**mistake, "actual": "ants", "predicted": "bees"} for mistake in found["mistakes"][:2]]
    explained = [{**one, "near": [{**it, "label": near} for it in one["near"]]} for one in found["why"]["mistakes"][:2]]
    evaluation = make(mistakes=mistakes, why={**found["why"], "mistakes": explained})
    steps = told(evaluation, NEXT)
    assert (summarise(evaluation)[NEXT][0].section == "mistakes") == (text is not None)
    assert (text or "See whether") in steps
    assert ("whose label" in steps) == (text is not None)


@pytest.mark.parametrize(
    ("promise", "text"),
    [
        ({"images_needed": 5432}, "to promise 95\u00a0%, about 5,432 held-out ones would do; there are 244."),
        ({}, "lower evaluate.wanted_precision: more images like these can't promise 95\u00a0%."),
        ({"images_needed": 800, "class": "a|b"}, "about 800 held-out ones answered “a|b” would do"),
    ],
)
def test_broken_promise_says_what_would_keep_it(promise: dict[str, Any], text: str) -> None:
    evaluation = make()
    evaluation["answers"] |= {"promises": [{**PROMISE, "threshold": None, **promise}]}
    assert text in told(evaluation, NEXT)
    assert "It can't promise that 95\u00a0% of its answers are right." in told(evaluation, SURE)


def test_class_that_lacks_most_images_for_its_promise_is_named() -> None:
    evaluation = make()
    broken = {**PROMISE, "threshold": None}
    kinds = [("ants", 500, 300), ("bees", 450, 100), ("none", None, 10)]
    promises = [{**broken, "class": name, "images_needed": needed, "images": n} for name, needed, n in kinds]
    evaluation["answers"] |= {"each_class": True, "promises": [*promises, {**PROMISE, "class": "wasps"}]}
    assert "about 450 held-out ones answered “bees” would do; there are 100." in told(evaluation, NEXT)
    assert "that 95\u00a0% of its answers on new images are right, for 1 of 4 classes." in told(evaluation, SURE)
    evaluation["answers"]["wanted_precision"] = 0.995
    assert "to promise 99.5\u00a0%, about" in told(evaluation, NEXT)
    assert "It promises that 99.5\u00a0% of its" in told(evaluation, SURE)


def test_thresholds_that_nobody_asked_for_are_a_next_step() -> None:
    evaluation = make()
    evaluation["answers"] |= {"wanted_precision": None, "promises": []}
    assert "set evaluate.wanted_precision" in told(evaluation, NEXT)
    assert "Every image gets an answer, however unsure it is." in told(evaluation, SURE)


def test_weak_slices_scarce_classes_and_confused_ones_are_next_steps() -> None:
    found = make_evaluation(["ants", "bees", "none"], n=60)
    evaluation = make(weak=found["weak"], strategies=found["strategies"])
    confusion = evaluation["strategies"]["strategy_0"]["test"]["confusion"]
    steps = told(evaluation, NEXT)
    assert "Add images of “none” (0), in brackets the number of test images." in steps
    assert "Add images like these: ants; 8 of 20 are wrong." in steps
    assert max(max(row[:place] + row[place + 1 :]) for place, row in enumerate(confusion)) >= 3
    assert "images are mistaken for it." in steps
    assert "1 of 3 classes has fewer than 10 test images" in told(evaluation, SURE)


def test_model_below_the_baseline_is_not_to_be_used() -> None:
    evaluation = make()
    labels = np.array([0] * 36 + [1] * 4)
    evaluation["strategies"]["strategy_0"]["test"] = measure(np.tile([0.6, 0.4, 0], (40, 1)), labels, ["a", "b", "c"])
    assert "Don't use this model yet" in summarise(evaluation)[NEXT][0].text
    assert "It is not clearly better than always answering “a”" in told(evaluation, SURE)


def test_page_shows_the_summary_first_and_its_links_lead_somewhere() -> None:
    evaluation = make_evaluation(["ants", "bees", "none"], strategies=2)
    html = render(evaluation)
    assert html.index('id="summary"') < html.index('id="mistakes"')
    lines = [line for lines in summarise(evaluation).values() for line in lines]
    assert len(summarise(evaluation)[NEXT]) <= MOST_STEPS
    assert all(f'id="{line.section}"' in html for line in lines if line.section)


def test_classes_show_intervals_and_say_which_figures_are_worth_little() -> None:
    evaluation = make_evaluation(["ants", "bees", "none"])
    ants = evaluation["strategies"]["strategy_0"]["test"]["per_class"]["ants"]
    table = render(evaluation).split('id="classes"')[1].split("</table>")[0]
    low, high = ants["recall_ci95"]
    assert f'<span class="ends">{100 * low:.1f}–{100 * high:.1f}</span>' in table
    low, high = ants["roc_auc_ci95"]
    assert f"{ants['roc_auc']:.3f}" in table
    assert f'<span class="ends">{low:.3f}–{high:.3f}</span>' in table
    assert table.count("says little") == 1
