"""Splits: a hash of the content assigns single images, groups stay together, and no image moves because of another."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.images.splits import (
    Assignment,
    ImageToSplit,
    Rules,
    anchors,
    assign,
    assign_split,
    draw,
)

keys = st.binary(min_size=1, max_size=8).map(lambda data: hashlib.sha256(data).hexdigest())
fractions = st.tuples(st.floats(0, 0.5, exclude_max=True), st.floats(0, 0.5, exclude_max=True))
RULES = Rules(validation_fraction=0.3, test_fraction=0.3, seed=0)
ORDER = ("test", "validation", "train")
ALL_KEYS = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(10_000)]


@given(keys, fractions, st.integers(0, 5))
def test_split_depends_on_nothing_but_the_image_and_the_rules(key: str, shares: tuple[float, float], seed: int) -> None:
    first = assign_split(key, None, set(), *shares, seed)
    assert first == assign_split(key, None, set(), *shares, seed)
    assert first in ("train", "validation", "test")


@given(keys, st.floats(0, 0.3), st.floats(0, 0.3), st.integers(0, 5))
def test_larger_test_share_takes_no_image_out_of_test(key: str, less: float, more: float, seed: int) -> None:
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


def key_of(number: int) -> str:
    return ALL_KEYS[number]


@st.composite
def many_members(draw_: st.DrawFn, given_too: bool = True) -> list[ImageToSplit]:
    """Up to 10 images in a few groups and looks, which often overlap."""
    numbers = draw_(st.lists(st.integers(0, 11), max_size=10, unique=True))
    names = st.sampled_from([None, "a", "b", "c"])
    splits = st.sampled_from([None, None, None, *ORDER]) if given_too else st.none()
    return [ImageToSplit(key_of(number), draw_(splits), draw_(names), draw_(names)) for number in numbers]


rules = st.builds(
    Rules,
    st.sampled_from([0.0, 0.2, 0.4]),
    st.sampled_from([0.0, 0.2, 0.4]),
    st.integers(0, 3),
    st.sets(st.sampled_from(ORDER)).map(frozenset),
)
some_previous = st.lists(st.sampled_from([None, None, *ORDER]), min_size=12, max_size=12).map(
    lambda splits: {key_of(number): split for number, split in enumerate(splits) if split}
)


def splits_by_name(members: Sequence[ImageToSplit], assignment: Assignment) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for member in members:
        for kind, name in (("group", member.group), ("look", member.near_duplicates)):
            if name is not None and member.key in assignment.splits:
                found[kind, name].add(assignment.splits[member.key])
    return found


@given(many_members(), some_previous, rules)
def test_no_group_and_no_set_of_near_duplicates_is_in_two_splits(
    members: list[ImageToSplit], previous: dict[str, str], by: Rules
) -> None:
    assignment = assign(members, previous, by)
    assert all(len(found) == 1 for found in splits_by_name(members, assignment).values())


@given(many_members(), some_previous, rules)
def test_every_image_is_assigned_or_left_out(members: list[ImageToSplit], previous: dict[str, str], by: Rules) -> None:
    assignment = assign(members, previous, by)
    assert assignment.splits.keys() | assignment.leaks.keys() == {member.key for member in members}
    assert not assignment.splits.keys() & assignment.leaks.keys()
    assert set(assignment.splits.values()) <= set(ORDER)


@given(many_members(), some_previous, rules)
def test_image_that_is_left_out_names_a_held_out_image_that_stays(
    members: list[ImageToSplit], previous: dict[str, str], by: Rules
) -> None:
    assignment = assign(members, previous, by)
    anchor_of = anchors(members)
    for key, mate in assignment.leaks.items():
        assert assignment.splits[mate] in ("test", "validation")
        assert anchor_of[key] == anchor_of[mate]


@given(many_members(), some_previous, rules)
def test_given_splits_are_respected(members: list[ImageToSplit], previous: dict[str, str], by: Rules) -> None:
    assignment = assign(members, previous, by)
    for member in members:
        split = assignment.splits.get(member.key)
        if member.given in ("test", "validation"):
            assert split in (member.given, None)
        if member.given == "train" and split:
            assert split == "train" or split not in by.given_splits


@given(many_members(), some_previous, rules)
def test_given_test_images_are_never_left_out(members: list[ImageToSplit], previous: dict[str, str], by: Rules) -> None:
    assignment = assign(members, previous, by)
    assert all(assignment.splits[member.key] == "test" for member in members if member.given == "test")


@given(many_members(given_too=False), many_members(given_too=False), rules)
def test_members_never_move_when_images_come_and_go(
    before: list[ImageToSplit], after: list[ImageToSplit], by: Rules
) -> None:
    first = assign(before, {}, by)
    second = assign(after, first.memory, by)
    for key in first.splits.keys() & {member.key for member in after}:
        assert second.splits.get(key, first.splits[key]) == first.splits[key]


@given(many_members(given_too=False), some_previous, many_members(given_too=False), rules)
def test_new_images_move_no_others(
    members: list[ImageToSplit], previous: dict[str, str], more: list[ImageToSplit], by: Rules
) -> None:
    first = assign(members, previous, by)
    known = {member.key for member in members}
    second = assign([*members, *(member for member in more if member.key not in known)], first.memory, by)
    assert first.splits.items() <= second.splits.items()


@given(many_members(), some_previous, rules, st.randoms(use_true_random=False))
def test_order_of_the_members_does_not_matter(
    members: list[ImageToSplit], previous: dict[str, str], by: Rules, random: object
) -> None:
    shuffled = list(members)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert assign(shuffled, previous, by) == assign(members, previous, by)


@given(many_members(), some_previous, rules)
def test_the_next_run_changes_nothing(members: list[ImageToSplit], previous: dict[str, str], by: Rules) -> None:
    first = assign(members, previous, by)
    second = assign(members, first.memory, by)
    assert first.splits.items() <= second.splits.items()
    assert assign(members, second.memory, by) == second


@given(st.lists(st.integers(0, 999), unique=True), st.sampled_from([None, *ORDER]), rules)
def test_single_images_are_drawn_by_assign_split(numbers: list[int], given_split: str | None, by: Rules) -> None:
    members = [ImageToSplit(key_of(number), given_split) for number in numbers]
    shares = (by.validation_fraction, by.test_fraction, by.seed)
    by = dataclasses.replace(by, given_splits=by.given_splits | ({given_split} - {None}))
    expected = {m.key: assign_split(m.key, given_split, by.given_splits, *shares) for m in members}
    assert assign(members, {}, by).splits == expected


def test_group_of_the_source_is_drawn_by_its_name() -> None:
    counts: Counter[str] = Counter()
    for number in range(500):
        group = f"patient {number}"
        one = assign([ImageToSplit(key_of(2 * number), group=group)], {}, RULES).splits
        other = assign([ImageToSplit(key_of(2 * number + 1), group=group)], {}, RULES).splits
        assert set(one.values()) == set(other.values())
        counts.update(one.values())
    assert counts["test"] / 500 == pytest.approx(0.3, abs=0.06)


def test_near_duplicates_are_drawn_by_their_smallest_key() -> None:
    for number in range(0, 100, 4):
        members = [ImageToSplit(key_of(number + more), near_duplicates="same") for more in range(4)]
        smallest = min(member.key for member in members)
        expected = assign_split(smallest, None, set(), 0.3, 0.3, 0)
        assert set(assign(members, {}, RULES).splits.values()) == {expected}


def test_new_image_joins_its_near_duplicates_and_its_group() -> None:
    for split in ORDER:
        members = [
            ImageToSplit("old", near_duplicates="x"),
            ImageToSplit("like", near_duplicates="x", group="p"),
            ImageToSplit("further", group="p"),
        ]
        assert assign(members, {"old": split}, RULES).splits == {"old": split, "like": split, "further": split}


@pytest.mark.parametrize(("group_split", "look_split"), [("train", "test"), ("test", "train")])
def test_new_image_between_two_splits_is_left_out_and_moves_no_others(group_split: str, look_split: str) -> None:
    members = [
        *(ImageToSplit(f"patient's {number}", group="patient") for number in range(3)),
        ImageToSplit("like", near_duplicates="x"),
        ImageToSplit("newcomer", group="patient", near_duplicates="x"),
    ]
    previous = {f"patient's {number}": group_split for number in range(3)} | {"like": look_split}
    assignment = assign(members, previous, RULES)
    assert assignment.splits == previous
    assert assignment.leaks == {"newcomer": "like" if look_split == "test" else "patient's 0"}


def test_new_near_duplicates_with_groups_in_two_splits_are_not_both_kept() -> None:
    members = [
        ImageToSplit("train", group="p"),
        ImageToSplit("test", group="q"),
        ImageToSplit("one", group="p", near_duplicates="x"),
        ImageToSplit("other", group="q", near_duplicates="x"),
    ]
    previous = {"train": "train", "test": "test"}
    assignment = assign(members, previous, RULES)
    assert assignment.splits == previous | {"other": "test"}
    assert assignment.leaks == {"one": "other"}


def test_relative_that_is_named_for_a_leak_does_not_depend_on_the_order() -> None:
    members = [
        ImageToSplit("a", near_duplicates="x"),
        ImageToSplit("b", group="p", near_duplicates="x"),
        ImageToSplit("q", group="p"),
        ImageToSplit("r", group="r"),
        ImageToSplit("z", group="r", near_duplicates="x"),
    ]
    first = assign(members, {"q": "validation", "r": "test"}, RULES)
    second = assign(members, first.memory, RULES)
    assert second.leaks == {"b": "a"}
    assert assign(members, second.memory, RULES).leaks == second.leaks


def test_new_image_that_may_not_join_its_near_duplicates_is_left_out() -> None:
    by = dataclasses.replace(RULES, given_splits=frozenset({"train", "test"}))
    members = [
        ImageToSplit("t", "test", near_duplicates="x"),
        ImageToSplit("new", "train", group="g", near_duplicates="x"),
        ImageToSplit("mate", group="g"),
    ]
    assignment = assign(members, {}, by)
    assert assignment.leaks == {"new": "t"}
    assert assignment.splits.keys() == {"t", "mate"}


def test_when_near_duplicates_merge_the_held_out_images_stay() -> None:
    members = [
        ImageToSplit("a", near_duplicates="x"),
        ImageToSplit("b", near_duplicates="x"),
        ImageToSplit("c", near_duplicates="x"),
        ImageToSplit("bridge", near_duplicates="x"),
    ]
    previous = {"a": "train", "b": "validation", "c": "test"}
    assignment = assign(members, previous, RULES)
    assert assignment.splits == {"c": "test", "bridge": "test"}
    assert assignment.leaks == {"a": "bridge", "b": "bridge"}


def test_image_left_out_for_a_while_comes_back_to_its_split() -> None:
    apart = [ImageToSplit("a", near_duplicates="x"), ImageToSplit("b", near_duplicates="y")]
    together = [ImageToSplit("a", near_duplicates="x"), ImageToSplit("b", near_duplicates="x")]
    for split in ("train", "validation"):
        first = assign(together, {"a": split, "b": "test"}, RULES)
        assert first.leaks == {"a": "b"}
        assert assign(apart, first.memory, RULES).splits == {"a": split, "b": "test"}


def test_near_duplicates_across_given_splits_stay_where_they_are_held_out() -> None:
    by = dataclasses.replace(RULES, given_splits=frozenset({"train", "test"}))
    members = [
        ImageToSplit("t", "test", near_duplicates="x"),
        ImageToSplit("s", "train", near_duplicates="x"),
        ImageToSplit("own", "train", near_duplicates="y"),
    ]
    assignment = assign(members, {}, by)
    assert assignment.splits["t"] == "test"
    assert assignment.leaks == {"s": "t"}
    assert assignment.splits["own"] in ("train", "validation")


def test_split_that_the_source_gives_now_counts_more_than_the_previous_one() -> None:
    by = dataclasses.replace(RULES, given_splits=frozenset({"train", "test"}))
    assert assign([ImageToSplit("a", "test")], {"a": "train"}, by).splits == {"a": "test"}
    assert assign([ImageToSplit("a", "train")], {"a": "test"}, by).splits["a"] != "test"


def test_anchor_connects_over_groups_and_near_duplicates() -> None:
    members = [
        ImageToSplit("d", group="q"),
        ImageToSplit("c", group="q", near_duplicates="1"),
        ImageToSplit("b", near_duplicates="1", group="p"),
        ImageToSplit("e", near_duplicates="2"),
        ImageToSplit("f", near_duplicates="2"),
        ImageToSplit("g"),
    ]
    expected = {"d": "group:p", "c": "group:p", "b": "group:p", "e": "e", "f": "e", "g": "g"}
    assert anchors(members) == expected
