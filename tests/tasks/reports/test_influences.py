"""The influence of an image is the slope of the metric in the image's weight; intervals keep their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from tasks.reports.influences import Mean, average_precision, f1_score, roc_auc, share_of, weighted_mean
from tasks.reports.uncertainty import accuracy_interval, interval

STEP = 1e-6
rng = np.random.default_rng(0)
ACTUAL = rng.random(60) < 0.4
SCORES = np.round(rng.normal(size=60) + ACTUAL, 1)  # with equal scores
PREDICTED = SCORES > 0.5
CASES = {
    "accuracy": (weighted_mean(1.0 * (ACTUAL == PREDICTED)), reference.accuracy_score, PREDICTED),
    "recall": (share_of(ACTUAL, PREDICTED), reference.recall_score, PREDICTED),
    "precision": (share_of(PREDICTED, ACTUAL), reference.precision_score, PREDICTED),
    "f1": (f1_score(ACTUAL, PREDICTED), reference.f1_score, PREDICTED),
    "roc_auc": (roc_auc(ACTUAL, SCORES), reference.roc_auc_score, SCORES),
    "average_precision": (average_precision(ACTUAL, SCORES), reference.average_precision_score, SCORES),
}


@pytest.mark.parametrize("name", CASES)
def test_the_influence_is_the_slope_of_scikit_learns_metric_in_an_images_weight(name):
    measured, score, given = CASES[name]
    value = score(ACTUAL, given)
    heavier = np.ones(60) + STEP * np.eye(60)
    slopes = [(score(ACTUAL, given, sample_weight=weights) - value) / STEP for weights in heavier]
    assert measured.value == pytest.approx(value)
    assert np.allclose(measured.influence, slopes, atol=1e-5)
    assert measured.influence.sum() == pytest.approx(0, abs=1e-12)


def test_the_mean_leaves_out_undefined_metrics():
    mean = Mean()
    assert mean.result() is None
    for hits in (PREDICTED, ~PREDICTED):
        mean.add(share_of(ACTUAL, hits))
    mean.add(share_of(np.zeros(60, bool), PREDICTED))
    assert mean.result().value == pytest.approx(0.5)
    assert np.allclose(mean.result().influence, 0)


def test_a_perfect_macro_metric_is_as_sure_as_its_smallest_classes_allow():
    mean, few = Mean(), np.arange(1000) < 4
    for actual in (few, ~few):
        mean.add(share_of(actual, np.ones(1000, bool)))
    low, high = interval(mean.result(), np.arange(1000))
    assert high == 1.0
    assert accuracy_interval(np.ones(8, bool))[0] < low < accuracy_interval(np.ones(20, bool))[0]


@pytest.mark.parametrize("sizes", [np.ones(200, int), np.full(20, 50)], ids=["alone", "20 groups of 50"])
def test_intervals_contain_the_truth_of_simulated_worlds_in_95_of_100_cases(sizes):
    random, groups = np.random.default_rng(1), np.repeat(np.arange(len(sizes)), sizes)

    def draw(groups):
        actual = random.random(len(groups)) < 0.4
        shift = 0.3 * random.normal(size=groups.max() + 1)
        return actual, random.normal(size=len(groups)) + 1.5 * actual + shift[groups]

    def measure(actual, scores):
        hits = (scores > 0.75) == actual
        return roc_auc(actual, scores), f1_score(actual, scores > 0.75), weighted_mean(np.where(hits, 0.2, 2.0))

    truth = [one.value for one in measure(*draw(np.arange(200_000)))]
    runs, inside = 600, np.zeros(3)
    for _ in range(runs):
        found = measure(*draw(groups))
        for number, one in enumerate(found):
            low, high = interval(one, groups, is_share=number < 2)
            inside[number] += low <= truth[number] <= high
    assert (inside / runs > 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)).all(), inside / runs
