"""Splits: a pure function of the content, so that no picture ever moves because of another."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.pictures.splits import assign_split, draw

keys = st.binary(min_size=1, max_size=8).map(lambda data: hashlib.sha256(data).hexdigest())
fractions = st.tuples(st.floats(0, 0.5, exclude_max=True), st.floats(0, 0.5, exclude_max=True))
ALL_KEYS = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(10_000)]


@given(keys, fractions, st.integers(0, 5))
def test_split_depends_on_nothing_but_the_picture_and_the_rules(
    key: str, shares: tuple[float, float], seed: int
) -> None:
    first = assign_split(key, None, set(), *shares, seed)
    assert first == assign_split(key, None, set(), *shares, seed)
    assert first in ("train", "validation", "test")


@given(keys, st.floats(0, 0.3), st.floats(0, 0.3), st.integers(0, 5))
def test_larger_test_share_takes_no_picture_out_of_test(key: str, less: float, more: float, seed: int) -> None:
    less, more = sorted((less, more))
    if assign_split(key, None, set(), 0.2, less, seed) == "test":
        assert assign_split(key, None, set(), 0.2, more, seed) == "test"


@given(keys, st.sampled_from(["validation", "test"]), fractions)
def test_given_held_out_splits_are_kept(key: str, given_split: str, shares: tuple[float, float]) -> None:
    assert assign_split(key, given_split, {"train", given_split}, *shares, 0) == given_split


@given(keys, fractions)
def test_given_train_stays_train_where_everything_is_given(key: str, shares: tuple[float, float]) -> None:
    assert assign_split(key, "train", {"train", "validation", "test"}, *shares, 0) == "train"


@given(keys, fractions)
def test_validation_is_carved_from_train_where_only_test_is_given(key: str, shares: tuple[float, float]) -> None:
    assert assign_split(key, "train", {"train", "test"}, *shares, 0) in ("train", "validation")


@pytest.mark.parametrize(
    ("given_splits", "expected"),
    [
        (set(), {"train": 0.65, "validation": 0.2, "test": 0.15}),
        ({"train", "test"}, {"train": 0.8, "validation": 0.2}),
        ({"train", "validation"}, {"train": 0.85, "test": 0.15}),
    ],
)
def test_shares_are_the_wanted_ones(given_splits: set[str], expected: dict[str, float]) -> None:
    given_split = "train" if given_splits else None
    counts = Counter(assign_split(key, given_split, given_splits, 0.2, 0.15, 0) for key in ALL_KEYS)
    assert counts.keys() == expected.keys()
    for split, share in expected.items():
        assert counts[split] / len(ALL_KEYS) == pytest.approx(share, abs=0.015)


def test_another_seed_gives_other_splits() -> None:
    one, two = ([assign_split(key, None, set(), 0.2, 0.2, seed) for key in ALL_KEYS] for seed in (0, 1))
    agreement = sum(first == second for first, second in zip(one, two, strict=True)) / len(ALL_KEYS)
    assert agreement == pytest.approx(0.6**2 + 2 * 0.2**2, abs=0.02)


def test_draw_is_even_and_the_same_on_every_machine() -> None:
    numbers = [draw(key, 0) for key in ALL_KEYS]
    assert all(0 <= number < 1 for number in numbers)
    tenths = Counter(int(number * 10) for number in numbers)
    assert max(tenths.values()) / min(tenths.values()) < 1.2
    assert draw("0" * 64, 0) == pytest.approx(0.390274121)
