"""Drift: few false alarms, most changes found, and estimates that equal what can be known otherwise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import ks_2samp

from tasks.watching import drift
from tasks.watching.drift import Sample, compare_samples, estimate_accuracy, estimate_class_shares

CLASSES = ("ants", "bees", "wasps")
EQUAL = (1 / 3, 1 / 3, 1 / 3)


def draw(
    rng: np.random.Generator, n: int, shift: float = 0.0, shares: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)
) -> Sample:
    """Images of Gaussian classes, with the probabilities that a perfect model gives for equal shares."""
    labels = rng.choice(3, n, p=shares)
    features = rng.standard_normal((n, 12)) + 2 * np.eye(3, 12)[labels]
    logits = 2 * features[:, :3]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    features[:, 3:] += shift
    return Sample(probabilities, features.astype(np.float32), rng.random(n) < 0.05, rng.random(n) < 0.1)


@pytest.mark.parametrize("n", [10, 60])
def test_images_of_the_same_distribution_raise_an_alarm_in_at_most_five_of_a_hundred_comparisons(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "_PERMUTATIONS", 99)
    rng, trials = np.random.default_rng(0), 200
    alarms = sum(compare_samples(draw(rng, 80), draw(rng, n), CLASSES, seed)["alarm"] for seed in range(trials))
    assert alarms / trials <= 0.05 + 2 * (0.05 * 0.95 / trials) ** 0.5


@pytest.mark.parametrize(
    ("new", "test"),
    [
        ({"shift": 1.0}, "features"),
        ({"shares": (0.9, 0.05, 0.05)}, "probabilities"),
    ],
)
def test_a_change_is_found_by_the_test_that_can_see_it(new: dict[str, float], test: str) -> None:
    rng = np.random.default_rng(1)
    found = compare_samples(draw(rng, 100), draw(rng, 100, **new), CLASSES)
    assert found["alarm"]
    assert next(one for one in found["tests"] if one["name"] == test)["alarm"]


def test_more_foreign_images_raise_an_alarm_and_fewer_do_not() -> None:
    rng = np.random.default_rng(2)
    before, after = draw(rng, 100), draw(rng, 60)
    many, none = (Sample(after.probabilities, after.features, np.full(60, value)) for value in (True, False))
    alarms = [
        next(one for one in compare_samples(before, new, CLASSES)["tests"] if one["name"] == "foreign")["alarm"]
        for new in (many, none)
    ]
    assert alarms == [True, False]


def test_model_without_foreign_score_is_compared_by_the_other_tests() -> None:
    rng = np.random.default_rng(3)
    before, after = (Sample(one.probabilities, one.features) for one in (draw(rng, 40), draw(rng, 40)))
    found = compare_samples(before, after, CLASSES)
    assert [one["name"] for one in found["tests"]] == ["probabilities", "features"]
    assert "foreign" not in found
    assert "unsure" not in found


def test_class_that_differs_most_is_named() -> None:
    rng = np.random.default_rng(4)
    found = compare_samples(draw(rng, 200), draw(rng, 200, shares=(0.5, 0.5, 0.0)), CLASSES)
    assert found["tests"][0]["class"] == "wasps"


def test_discrepancy_equals_the_sums_over_all_pairs() -> None:
    rng = np.random.default_rng(5)
    kernel = rng.random((7, 7))
    kernel += kernel.T
    np.fill_diagonal(kernel, 0)
    first, second = [0, 2, 5], [1, 3, 4, 6]
    sides = np.isin(np.arange(7), first).astype(np.float32)[:, np.newaxis]

    def mean(pairs: list[tuple[int, int]]) -> float:
        return float(np.mean([kernel[pair] for pair in pairs]))

    expected = (
        mean(list(itertools.permutations(first, 2)))
        + mean(list(itertools.permutations(second, 2)))
        - 2 * mean(list(itertools.product(first, second)))
    )
    assert drift._discrepancies(kernel, sides)[0] == pytest.approx(expected, rel=1e-5)


def test_p_value_of_features_is_that_of_all_permutations() -> None:
    rng = np.random.default_rng(6)
    features = rng.standard_normal((7, 4)).astype(np.float32)
    features[:3] += 1
    distances = drift._squared_distances(features)
    kernel = np.exp(-distances / np.median(distances[np.triu_indices(7, 1)]))
    np.fill_diagonal(kernel, 0)
    every = np.array([np.isin(np.arange(7), one) for one in itertools.combinations(range(7), 3)], np.float32).T
    values = drift._discrepancies(kernel, every)
    exact = float((values >= values[0] - 1e-9).mean())
    both = Sample(np.ones((3, 1)), features[:3]), Sample(np.ones((4, 1)), features[3:])
    estimated = drift._compare_features(*both, np.random.default_rng(0))["p_value"]
    assert estimated == pytest.approx(exact, abs=0.05)


def test_many_images_are_compared_by_some_of_them() -> None:
    rng = np.random.default_rng(7)
    found = compare_samples(draw(rng, 1500), draw(rng, 5), CLASSES)
    assert found["n"] == {"reference": 1500, "new": 5}


def test_equal_images_on_both_sides_raise_no_alarm() -> None:
    same = Sample(np.full((30, 3), 1 / 3), np.ones((30, 4), np.float32), np.zeros(30, bool))
    assert not compare_samples(same, same, CLASSES)["alarm"]


def test_shares_of_classes_are_estimated_with_intervals_that_hold_them() -> None:
    rng, true = np.random.default_rng(8), (0.7, 0.2, 0.1)
    inside = 0
    for seed in range(10):
        found = estimate_class_shares(draw(rng, 200, shares=true).probabilities, np.full(3, 1 / 3), seed)
        assert sum(one["share"] for one in found) == pytest.approx(1, abs=1e-6)
        inside += sum(one["ci95"][0] <= share <= one["ci95"][1] for one, share in zip(found, true, strict=True))
    assert inside >= 26  # of 30; 28.5 are expected


def test_shares_take_into_account_how_often_the_classes_were_in_training() -> None:
    shares = np.array([0.8, 0.1, 0.1])
    rng = np.random.default_rng(9)
    equal = draw(rng, 2000, shares=EQUAL).probabilities * shares
    found = estimate_class_shares(equal / equal.sum(axis=1, keepdims=True), shares)
    assert [one["share"] for one in found] == pytest.approx([1 / 3] * 3, abs=0.04)


def test_accuracy_is_that_of_the_reference_on_the_reference_itself() -> None:
    probabilities = draw(np.random.default_rng(10), 100).probabilities
    hits = np.arange(100) >= 13
    assert estimate_accuracy(probabilities, hits, probabilities) == pytest.approx(0.87)
    assert estimate_accuracy(probabilities, np.ones(100, bool), probabilities) == 1.0
    assert estimate_accuracy(probabilities, np.zeros(100, bool), probabilities) == 0.0


def test_accuracy_falls_where_the_model_is_less_sure() -> None:
    rng = np.random.default_rng(11)
    known = draw(rng, 400)
    hits = rng.random(400) < known.probabilities.max(axis=1)
    blurred = known.probabilities**0.3
    blurred /= blurred.sum(axis=1, keepdims=True)
    assert estimate_accuracy(known.probabilities, hits, blurred) < hits.mean() - 0.1


def test_each_class_is_a_look_at_the_probabilities_and_all_looks_count() -> None:
    rng = np.random.default_rng(7)
    before, after = draw(rng, 90), draw(rng, 40, shares=(0.5, 0.25, 0.25))
    alone = [ks_2samp(before.probabilities[:, one], after.probabilities[:, one]).pvalue for one in range(3)]
    found = compare_samples(before, after, CLASSES)["tests"][0]
    assert found["name"] == "probabilities"
    assert found["p_value"] == pytest.approx(min(1.0, 3 * min(alone)))
