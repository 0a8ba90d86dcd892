"""A class isn't left without an image in a drawn split, and nobody who has a split moves for it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.images.splits import ImageToSplit, Rules, assign, assign_split

RULES = Rules(validation_fraction=0.2, test_fraction=0.2, seed=0)
SPLITS = ("train", "test", "validation")
RANK = {split: rank for rank, split in enumerate(SPLITS)}


def key_of(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def image(number: int, label: str, group: str | None = None, given: str | None = None) -> ImageToSplit:
    return ImageToSplit(key_of(number), given, group, None, label)


def counts(members: Sequence[ImageToSplit], splits: dict[str, str]) -> dict[str, Counter[str]]:
    """Label -> split -> images."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for member in members:
        if member.key in splits:
            found[member.label or ""][splits[member.key]] += 1
    return found


members_of_classes = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from("abc"), st.sampled_from([None, None, "p", "q", "r"])),
    max_size=24,
    unique_by=lambda row: row[0],
).map(lambda rows: [image(*row) for row in rows])
rules = st.builds(Rules, st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.1, 0.3]), st.integers(0, 3))


@given(st.lists(st.integers(3, 6), min_size=1, max_size=20), st.integers(0, 50))
def test_every_class_of_three_single_images_is_in_all_splits(sizes: list[int], seed: int) -> None:
    members = [image(100 * label + n, str(label)) for label, size in enumerate(sizes) for n in range(size)]
    found = counts(members, assign(members, {}, dataclasses.replace(RULES, seed=seed)).splits)
    assert {label for label, splits in found.items() if len(splits) < 3} == set()


@given(st.integers(0, 500))
def test_class_of_two_images_is_in_train_and_test_and_of_one_in_train(start: int) -> None:
    members = [image(start, "one"), image(start + 1, "two"), image(start + 2, "two")]
    found = counts(members, assign(members, {}, RULES).splits)
    assert found == {"one": {"train": 1}, "two": {"train": 1, "test": 1}}


@given(members_of_classes, rules)
def test_image_that_is_not_where_its_hash_says_is_the_only_one_of_its_class_there(
    members: list[ImageToSplit], by: Rules
) -> None:
    single = [dataclasses.replace(member, group=None) for member in members]
    splits = assign(single, {}, by).splits
    found = counts(single, splits)
    for member in single:
        drawn = assign_split(member.key, None, set(), by.validation_fraction, by.test_fraction, by.seed)
        assert splits[member.key] == drawn or found[member.label or ""][splits[member.key]] == 1


@given(members_of_classes, rules)
def test_class_with_a_held_out_image_has_a_training_image(members: list[ImageToSplit], by: Rules) -> None:
    """Groups of several classes may be too few for all; a class that has its own images is never without training."""
    splits = assign(members, {}, by).splits
    for label, found in counts(members, splits).items():
        own = [one for one in members if one.label == label and one.group is None]
        if own:
            assert found["train"], (label, found)


@given(members_of_classes, st.lists(st.sampled_from([None, None, *SPLITS]), min_size=401, max_size=401), rules)
def test_images_with_a_split_keep_it(members: list[ImageToSplit], earlier: list[str | None], by: Rules) -> None:
    previous = {key_of(number): split for number, split in enumerate(earlier) if split}
    splits = assign(members, previous, by).splits
    assert all(splits.get(key, split) == split for key, split in previous.items())


@given(members_of_classes, members_of_classes, rules)
def test_adding_images_moves_no_other(members: list[ImageToSplit], more: list[ImageToSplit], by: Rules) -> None:
    first = assign(members, {}, by)
    known = {member.key for member in members}
    second = assign([*members, *(member for member in more if member.key not in known)], first.memory, by)
    assert first.splits.items() <= second.splits.items()


@given(members_of_classes, members_of_classes, rules)
def test_without_memory_other_classes_do_not_matter(
    members: list[ImageToSplit], more: list[ImageToSplit], by: Rules
) -> None:
    """Also on another machine, a class of the same single images is drawn alike, whatever else there is."""
    single = [dataclasses.replace(member, group=None) for member in members if member.label == "a"]
    known = {member.key for member in single}
    others = [member for member in more if member.key not in known and member.label != "a"]
    splits = assign(single, {}, by).splits
    assert splits.items() <= assign([*single, *others], {}, by).splits.items()


def test_new_images_fill_the_split_that_their_class_lacks() -> None:
    old = [image(number, "a") for number in range(5)]
    previous = {member.key: "train" for member in old}
    new = [image(number, "a") for number in range(100, 102)]
    splits = assign([*old, *new], previous, RULES).splits
    assert {splits[member.key] for member in old} == {"train"}
    assert {splits[member.key] for member in new} == {"test", "validation"}


def test_groups_move_as_a_whole() -> None:
    for start in range(0, 300, 30):
        members = [image(start + n, "ab"[n % 2], group=f"{start}:{n // 6}") for n in range(30)]
        splits = assign(members, {}, RULES).splits
        assert all(len(found) == 3 for found in counts(members, splits).values())
        of_group: dict[str | None, set[str]] = defaultdict(set)
        for member in members:
            of_group[member.group].add(splits[member.key])
        assert {len(found) for found in of_group.values()} == {1}


def test_large_group_is_not_moved_where_a_small_one_will_do() -> None:
    for start in range(0, 2000, 100):
        large = [image(start + n, "a", group=f"large {start}") for n in range(20)]
        small = [image(start + n, "a", group=f"small {start} {n}") for n in range(20, 24)]
        splits = assign([*large, *small], {}, RULES).splits
        drawn = assign_split(f"group:large {start}", None, set(), 0.2, 0.2, 0)
        assert splits[large[0].key] == drawn


@pytest.mark.parametrize("split", ["test", "validation"])
def test_split_that_the_source_assigns_is_not_filled(split: str) -> None:
    by = dataclasses.replace(RULES, given_splits=frozenset({"train", split}))
    members = [image(number, "a", given="train") for number in range(6)]
    assert split not in assign(members, {}, by).splits.values()


def test_split_without_a_share_is_not_filled() -> None:
    members = [image(number, "a") for number in range(6)]
    splits = assign(members, {}, Rules(0.0, 0.2, 0)).splits
    assert set(splits.values()) == {"train", "test"}


def test_shares_of_large_classes_are_those_of_the_hash() -> None:
    members = [image(number, str(number % 3)) for number in range(600)]
    expected = {member.key: assign_split(member.key, None, set(), 0.2, 0.2, 0) for member in members}
    assert assign(members, {}, RULES).splits == expected
