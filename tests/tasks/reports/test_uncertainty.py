"""Intervals and tests, compared with their definitions; with groups, their coverage in simulations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.reports.uncertainty import (
    accuracy_interval,
    compare_paired,
    compare_with_champion,
    correct_p_values,
    difference_interval,
    effective_groups,
    standard_error,
)


def hits(correct: int, n: int) -> np.ndarray:
    return np.arange(n) < correct


@given(st.integers(1, 3000), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_interval_of_images_that_are_alone_is_wilsons(n: int, share: float) -> None:
    correct, z2 = round(n * share), 1.959963984540054**2
    p = correct / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    for groups in (None, np.arange(n)[::-1] + 7):
        assert accuracy_interval(hits(correct, n), groups) == pytest.approx((centre - half, centre + half), abs=1e-9)


@pytest.mark.parametrize("n", [1, 153, 10**5])
@pytest.mark.parametrize("groups_of", [1, 2])
def test_interval_ends_exactly_at_0_and_1(n: int, groups_of: int) -> None:
    groups = np.arange(n) // groups_of
    assert accuracy_interval(hits(0, n), groups)[0] == 0.0
    assert accuracy_interval(hits(n, n), groups)[1] == 1.0


def test_one_group_tells_nothing_about_others() -> None:
    assert accuracy_interval(hits(900, 1000), np.zeros(1000, int)) == (0.0, 1.0)
    assert standard_error(np.arange(9.0), np.zeros(9, int)) == math.inf


def test_if_all_are_right_each_group_counts_as_one_image_and_students_t_allows_for_few_groups() -> None:
    t_of_7 = 2.364624
    assert accuracy_interval(hits(160, 160), np.arange(160) % 8) == pytest.approx((8 / (8 + t_of_7**2), 1.0))


def test_copies_of_images_tell_as_much_as_the_images() -> None:
    once, groups = hits(80, 100), np.arange(100)
    low, high = accuracy_interval(once, groups)
    copied = accuracy_interval(np.repeat(once, 20), np.repeat(groups, 20))
    assert copied == pytest.approx((low, high), abs=0.003)  # Student's t instead of the normal distribution
    values = np.random.default_rng(0).normal(size=100)
    expected = standard_error(values, groups)
    assert expected == pytest.approx(values.std(ddof=1) / 10)
    assert standard_error(np.repeat(values, 20), np.repeat(groups, 20)) == pytest.approx(expected)


def test_weights_count_like_copies() -> None:
    values, times = np.array([1.0, 4.0, 2.0]), np.array([1, 3, 2])
    repeated = standard_error(np.repeat(values, times), np.repeat(np.arange(3), times))
    assert standard_error(values, np.arange(3), times.astype(float)) == pytest.approx(repeated)


@pytest.mark.parametrize(("sizes", "expected"), [([1] * 9, 9), ([50] * 20, 20), ([90, *[1] * 10], 1.23)])
def test_effective_groups_are_few_if_one_group_has_most_images(sizes: list[int], expected: float) -> None:
    assert effective_groups(np.repeat(np.arange(len(sizes)), sizes)) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.3])
def test_interval_of_20_groups_of_50_contains_the_true_accuracy_in_about_95_percent(correlation: float) -> None:
    random, groups, accuracy, runs = np.random.default_rng(1), np.repeat(np.arange(20), 50), 0.8, 300
    contained = 0
    for _ in range(runs):
        scale = 1 / correlation - 1 if correlation else 1e9
        of_group = random.beta(accuracy * scale, (1 - accuracy) * scale, 20)
        low, high = accuracy_interval(random.random(1000) < of_group[groups], groups)
        contained += low <= accuracy <= high
    assert 0.91 <= contained / runs <= 0.99


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_paired_test_of_images_that_are_alone_is_mcnemars(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(column) for column in zip(*pairs, strict=True))
    result = compare_paired(first, second)
    b, c = result["first_only"], result["second_only"]
    assert b == sum(x and not y for x, y in pairs)
    assert c == sum(y and not x for x, y in pairs)
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert result["p_value"] == pytest.approx(min(1.0, 2 * tail), abs=1e-9)
    assert compare_paired(second, first)["p_value"] == result["p_value"]


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 7)), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_paired_test_tries_every_exchange_of_whole_groups(rows: list[tuple[bool, bool, int]]) -> None:
    first, second, groups = (np.array(column) for column in zip(*rows, strict=True))
    sums = [int(first[groups == group].sum()) - int(second[groups == group].sum()) for group in set(groups.tolist())]
    found = abs(sum(sums))
    tried = [
        abs(sum(sign * value for sign, value in zip(signs, sums, strict=True))) >= found
        for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    assert compare_paired(first, second, groups)["p_value"] == pytest.approx(np.mean(tried), abs=1e-9)


@pytest.mark.parametrize("n", [20_000, 100_000])
def test_paired_test_survives_many_images(n: int) -> None:
    first = hits(n * 11 // 20, n)
    assert 0 <= compare_paired(first, ~first)["p_value"] < 1e-40


def test_paired_test_of_many_images_is_close_to_the_exact_one() -> None:
    first, groups = hits(10_150, 20_000), np.arange(20_000) // 4
    more = compare_paired(np.append(first, True), np.append(~first, False), np.append(groups, 5000))
    assert more["p_value"] == pytest.approx(compare_paired(first, ~first, groups)["p_value"], rel=0.05)


def test_paired_test_refuses_other_images() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        compare_paired(hits(1, 2), hits(1, 3))


@pytest.mark.parametrize("sizes", [np.ones(150, int), np.full(20, 50)], ids=["alone", "20 groups of 50"])
def test_the_interval_of_a_difference_contains_the_truth_in_95_of_100_simulated_test_sets(sizes: np.ndarray) -> None:
    random, groups = np.random.default_rng(2), np.repeat(np.arange(len(sizes)), sizes)
    runs, inside = 600, 0
    for _ in range(runs):
        ease = random.normal(1.5, 0.4, len(sizes))[groups] + random.normal(size=len(groups))
        first, second = (ease + 0.7 * random.normal(size=len(groups)) > 0 for _ in range(2))
        low, high = difference_interval(first, second, groups)
        inside += low <= 0 <= high
    assert inside / runs > 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)


def test_models_that_agree_on_all_images_are_not_equal_for_sure() -> None:
    low, high = difference_interval(hits(90, 100), hits(90, 100))
    assert -0.05 < low < 0 < high < 0.05
    assert difference_interval(hits(9, 10), hits(1, 10), np.zeros(10, int)) == [-1.0, 1.0]


def test_p_values_are_corrected_as_holm_does() -> None:
    assert correct_p_values([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert correct_p_values([0.9, 0.8]) == [1.0, 1.0]
    assert correct_p_values([]) == []


def test_the_champion_is_compared_with_each_other_model() -> None:
    pairs = compare_with_champion("b", {"a": hits(50, 100), "b": hits(90, 100), "c": hits(88, 100)})
    assert [(pair["first"], pair["second"]) for pair in pairs] == [("b", "a"), ("b", "c")]
    assert pairs[0]["difference"] == pytest.approx(0.4)
    assert pairs[0]["p_value_corrected"] == pytest.approx(2 * pairs[0]["p_value"])
