"""Folds of cross-validation: even, stable, and never between images that belong together."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.images.folds import assign_fold, assign_folds
from tasks.images.manifest import Duplicate, Example
from tasks.images.splits import assign_split
from tests.tasks.images.test_splits import ALL_KEYS, key_of


def test_folds_are_even_stable_and_independent_of_the_split() -> None:
    folds = {key: assign_fold(key, 5, 0) for key in ALL_KEYS}
    counts = Counter(folds.values())
    assert sorted(counts) == [0, 1, 2, 3, 4]
    assert min(counts.values()) > 0.9 * len(ALL_KEYS) / 5
    held_out = Counter(folds[key] for key in ALL_KEYS if assign_split(key, None, set(), 0.2, 0.2, 0) == "test")
    assert len(held_out) == 5
    assert min(held_out.values()) > 0.8 * max(held_out.values())
    assert folds[key_of(0)] == assign_fold(key_of(0), 5, 0)
    assert any(assign_fold(key, 5, 1) != folds[key] for key in ALL_KEYS)


@pytest.mark.parametrize("folds", [1, 0, -3])
def test_fewer_than_two_folds_are_refused(folds: int) -> None:
    with pytest.raises(ValueError, match=f"Received: {folds}"):
        assign_fold("key", folds, 0)


def example(number: int, label: str = "ant", group: str | None = None) -> Example:
    return Example(key_of(number), f"{label}/{number}.jpg", label, "train", 9, 9, "JPEG", "", group)


def kept_together(one: Example, of: Example) -> Duplicate:
    return Duplicate(one.path, one.label, "", of.path, "", "near", "kept_together")


many_examples = st.lists(st.sampled_from(["ant", "ant", "bee"]), min_size=6, max_size=60).map(
    lambda labels: [example(number, label) for number, label in enumerate(["ant", "bee"] * 5 + labels)]
)


@given(many_examples, st.integers(2, 5), st.integers(0, 3))
def test_every_class_is_spread_evenly_over_the_folds(examples: list[Example], folds: int, seed: int) -> None:
    fold_of = assign_folds(examples, [], folds, seed)
    assert fold_of.keys() == {one.key for one in examples}
    for label in ("ant", "bee"):
        counts = Counter(dict.fromkeys(range(folds), 0))
        counts.update(fold_of[one.key] for one in examples if one.label == label)
        assert len(counts) == folds
        assert max(counts.values()) - min(counts.values()) <= 1


@given(many_examples, st.integers(2, 5), st.randoms(use_true_random=False))
def test_folds_do_not_depend_on_the_order(examples: list[Example], folds: int, random: object) -> None:
    shuffled = list(examples)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert assign_folds(shuffled, [], folds, 0) == assign_folds(examples, [], folds, 0)


def test_groups_and_near_duplicates_are_in_one_fold_and_classes_still_spread() -> None:
    examples = [example(n, label=("ant", "bee")[n % 2], group=f"patient {n // 6}") for n in range(120)]
    apart = [example(n, label=("ant", "bee")[n % 2]) for n in range(120, 200)]
    likes = [kept_together(apart[n], apart[0]) for n in (2, 4)] + [kept_together(apart[11], examples[1])]
    fold_of = assign_folds([*examples, *apart], likes, 5, 0)
    folds_of_group = defaultdict(set)
    for one in examples:
        folds_of_group[one.group].add(fold_of[one.key])
    assert all(len(found) == 1 for found in folds_of_group.values())
    assert len({fold_of[apart[n].key] for n in (0, 2, 4)}) == 1
    assert fold_of[apart[11].key] == fold_of[examples[1].key]
    for label in ("ant", "bee"):
        counts = Counter(fold_of[one.key] for one in [*examples, *apart] if one.label == label)
        assert len(counts) == 5
        assert max(counts.values()) - min(counts.values()) <= 3


def test_another_seed_gives_other_folds() -> None:
    examples = [example(number) for number in range(100)]
    assert assign_folds(examples, [], 5, 0) != assign_folds(examples, [], 5, 1)


def test_class_with_fewer_images_than_folds_is_refused_by_name() -> None:
    examples = [*(example(number) for number in range(9)), *(example(n, "bee", group="one") for n in range(9, 20))]
    with pytest.raises(ValueError, match=r"Received: folds=3.*'bee' \(1\)"):
        assign_folds(examples, [], 3, 0)


def test_class_of_few_images_is_held_out_in_some_folds_if_wanted() -> None:
    """As scikit-learn's StratifiedKFold does it; and every round learns every class."""
    examples = [*(example(n) for n in range(20)), *(example(n, "bee") for n in range(20, 23)), example(23, "cat")]
    together = [example(n, "dog", group="one") for n in range(24, 28)]
    with pytest.raises(ValueError, match=r"'bee' \(3\), 'cat' \(1\), 'dog' \(1\)"):
        assign_folds([*examples, *together], [], 5, 0)
    fold_of = assign_folds([*examples, *together], [], 5, 0, partial=True)
    assert fold_of.keys() == {one.key for one in examples if one.label in ("ant", "bee")}
    assert Counter(Counter(fold_of[one.key] for one in examples[:20]).values()) == {4: 5}
    assert len({fold_of[one.key] for one in examples if one.label == "bee"}) == 3


def test_folds_need_one_class_with_an_image_for_each() -> None:
    examples = [example(n, ("ant", "bee")[n % 2]) for n in range(8)]
    with pytest.raises(ValueError, match=r"folds=5.*'ant' \(4\), 'bee' \(4\)"):
        assign_folds(examples, [], 5, 0, partial=True)


def test_no_fold_gets_the_remainders_of_all_classes() -> None:
    """50 classes of 6 images: one image of each class is left over when every fold has one."""
    examples = [example(6 * number + one, f"class {number}") for number in range(50) for one in range(6)]
    for seed in range(5):
        sizes = Counter(assign_folds(examples, [], 5, seed).values())
        assert max(sizes.values()) - min(sizes.values()) <= 3
