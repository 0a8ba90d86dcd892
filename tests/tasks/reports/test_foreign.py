"""Which score tells foreign images best, with intervals, and the threshold that keeps 95 % of the true images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tasks.reports.foreign import (
    WORDS,
    choose_score,
    foreign_summary,
    foreign_verdict,
    judge_scores,
    keep_threshold,
    measure_far,
    measure_near,
)
from tasks.reports.influences import roc_auc
from tasks.reports.uncertainty import interval
from tasks.vgg.foreign import SCORES

RANDOM = np.random.default_rng(0)


def held_out(label: int, rows: list[int], foreign: list[int], shift: float) -> Any:
    is_foreign = np.array(foreign, bool)
    return label, np.array(rows), is_foreign, RANDOM.normal(size=len(rows)) + shift * is_foreign


def test_near_is_the_mean_over_the_held_out_classes() -> None:
    trials = [held_out(2, [*range(20)], 10 * [0, 1], 1), held_out(0, [*range(5, 25)], 10 * [1, 0], 2)]
    mean, each = measure_near(trials, np.arange(30))
    expected = {label: roc_auc_score(foreign, scores) for label, _, foreign, scores in trials}
    assert each == pytest.approx(expected)
    assert mean is not None
    assert mean.value == pytest.approx(np.mean(list(expected.values())))


def test_near_of_one_class_has_the_interval_of_its_auroc() -> None:
    groups = np.arange(60) // 3
    one = held_out(0, np.random.default_rng(3).permutation(60)[:40].tolist(), 20 * [0, 1], 1)
    mean, _ = measure_near([one], groups)
    assert interval(mean, groups) == pytest.approx(interval(roc_auc(one[2], one[3]), groups[one[1]]))


def test_images_of_one_group_widen_the_interval_of_far() -> None:
    true = np.repeat(RANDOM.normal(size=20), 5)
    far = RANDOM.normal(size=30) + 1
    widths = [np.diff(measure_far(true, far, groups)["ci95"]) for groups in (np.arange(100), np.arange(100) // 5)]
    assert widths[1] > widths[0]


@pytest.mark.parametrize(("number", "rank"), [(19, 19), (20, 20), (39, 38), (400, 381), (7, 7)])
def test_threshold_leaves_room_for_a_new_image(number: int, rank: int) -> None:
    """The rank is the smallest with rank / (number + 1) of 0.95 or more."""
    assert keep_threshold(RANDOM.permutation(number) + 1.0) == rank


def test_threshold_keeps_new_images_as_often_as_it_says() -> None:
    scores = np.random.default_rng(1).normal(size=(2000, 60))
    kept = np.mean([row[59] <= keep_threshold(row[:59]) for row in scores])
    assert kept == pytest.approx(57 / 60, abs=0.015)  # the 57th of 59


def of(near: float | None, far: float) -> dict[str, Any]:
    return {"near": {"value": near}, "far": {"value": far}}


def test_the_highest_mean_is_chosen_and_the_simpler_one_if_it_is_as_good() -> None:
    assert choose_score({"a": of(0.7, 0.8), "b": of(0.8, 0.9), "c": of(0.9, 0.85)}) == "c"
    assert choose_score({"a": of(0.7, 0.8), "b": of(0.8, 0.9), "c": of(0.805, 0.902)}) == "b"


def test_a_score_that_was_not_tried_near_counts_as_a_coin_toss() -> None:
    assert choose_score({"a": of(None, 1.0), "b": of(0.6, 0.95)}) == "b"
    assert choose_score({"a": of(None, 1.0), "b": of(0.4, 0.95)}) == "a"


def test_the_verdict_is_ready_for_json() -> None:
    true, far = RANDOM.normal(size=100), RANDOM.normal(size=8) + 9
    trials = [held_out(0, [*range(40)], 20 * [0, 1], 1)]
    found = judge_scores({"a": true}, {"a": trials}, {"a": far}, np.arange(100), ("ant", "bee"))
    assert found["score"] == "a"
    assert (true <= found["threshold"]).sum() == 96
    assert found["caught"]["value"] == 1
    assert found["scores"]["a"]["far"] == {"value": 1, "ci95": [pytest.approx(0.885, abs=0.001), 1]}
    assert list(found["scores"]["a"]["near"]["per_class"]) == ["ant"]


def test_a_name_for_people_is_known_for_every_score() -> None:
    assert list(WORDS) == list(SCORES)


@pytest.mark.parametrize(
    ("near", "words"), [(None, "can't be measured"), (0.75, "Don't rely on it"), (0.9, "a coin toss gives")]
)
def test_verdict_says_what_near_means(near: float | None, words: str) -> None:
    share = {"value": 0.05, "ci95": [0.02, 0.08]}
    shares = {"called_foreign": share, "caught": share, "tested": 40, "far_images": 24}
    verdict = foreign_verdict({**shares, "score": "a", "scores": {"a": of(near, 1.0)}})
    assert words in verdict
    summary = foreign_summary({**shares, "score": "a", "scores": {"a": of(near, 1.0)}})
    assert ("often misses" in summary) == (near == 0.75)
    assert ("and most" in summary) == (near == 0.9)
    assert ("rely" in verdict) == (near == 0.75)
