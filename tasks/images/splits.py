"""Which split an image belongs to: members never move, and what belongs together is never torn apart.

An image on its own is drawn by its content hash, so the same image is in the same split on every machine, and every
class keeps the wanted shares up to chance. Images that belong together (the source's group: one patient, product or
video; or near duplicates) are drawn together. Such groups grow and merge as images come, so the
splits of the previous run are looked at: an image that has one keeps it, and new ones join.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

_Name = tuple[str, str]

HELD_OUT = ("test", "validation")
"""The more held-out first: of images that must not be in two splits, the first split keeps its own."""


@dataclass(frozen=True, slots=True)
class ImageToSplit:
    """An image to be assigned.

    Attributes:
        key: content hash of the image.
        given: the split that the source assigns to it, if any.
        group: what the source says it belongs to (patient, product, video), if anything.
        near_duplicates: the same for an image and all its near duplicates, and for no other; None if it has none.
    """

    key: str
    given: str | None = None
    group: str | None = None
    near_duplicates: str | None = None


@dataclass(frozen=True)
class Rules:
    """Shares of what is carved, the seed, and the splits that the source assigns (those that it lacks are carved)."""

    validation_fraction: float
    test_fraction: float
    seed: int
    given_splits: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Assignment:
    """Splits of the images that may be used.

    Attributes:
        splits: key -> split. No group and no set of near duplicates is in two splits.
        leaks: key -> the key of a held-out image (in `splits`) that it belongs to. These must be left out.
        memory: what to give as `previous` next time; it also knows the splits that leaks had before.
    """

    splits: dict[str, str]
    leaks: dict[str, str]
    memory: dict[str, str]


def draw(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the content and the seed."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def assign_split(
    key: str,
    given: str | None,
    given_splits: Collection[str],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> str:
    """`train`, `validation` or `test` for an image on its own.

    Args:
        key: content hash of the image.
        given: the split that the source assigns to it, if any.
        given_splits: all splits that the source assigns; those that it lacks are carved from train.
        validation_fraction: share of what is carved, as is `test_fraction`.
        seed: another seed gives other splits.
    """
    if given in HELD_OUT:
        return given
    number = draw(key, seed)
    test = 0.0 if "test" in given_splits else test_fraction
    validation = 0.0 if "validation" in given_splits else validation_fraction
    if number < test:
        return "test"
    return "validation" if number < test + validation else "train"


def anchors(members: Sequence[ImageToSplit]) -> dict[str, str]:
    """What each image is drawn by, the same for all that are connected by groups and near duplicates.

    The smallest name of a source's group among them (as `group:<name>`), else the smallest key; for an image on its
    own its key.
    """
    anchor_of = {member.key: member.key for member in members}
    named = [(member, names) for member in members if (names := _names(member))]
    if not named:
        return anchor_of
    from scipy.cluster.hierarchy import DisjointSet  # most of a second, for nothing where all images are unrelated

    forest = DisjointSet(dict.fromkeys(name for _, names in named for name in names))
    for _, names in named:
        forest.merge(names[0], names[-1])
    clusters: dict[_Name, list[ImageToSplit]] = defaultdict(list)
    for member, names in named:
        clusters[forest[names[0]]].append(member)
    return anchor_of | {
        member.key: anchor for cluster in clusters.values() for anchor in [_anchor(cluster)] for member in cluster
    }


def assign(members: Sequence[ImageToSplit], previous: Mapping[str, str], rules: Rules) -> Assignment:
    """Splits for all images, given those of the previous run.

    1. A held-out split that the source gives is kept, whatever was before; so is the previous split of an image, if
       the source still allows it (what the source gives as train doesn't go where the source gives images itself).
    2. What is then in two splits (as the source gives it, or because sets of near duplicates merged) stays in the more
       held-out one; the others are leaks, to be left out. So an image with a split keeps it or is left out; it never
       moves.
    3. New images join the split of their group and their near duplicates. One that would have to join several splits,
       or one that the source forbids, is left out and moves no others.
    4. Where no image of a group or of near duplicates has a split yet, all are drawn by their anchor (see `anchors`).

    The order of the members doesn't matter. An image on its own gets what `assign_split` says, unless it has another
    previous split. `previous` must come from the same rules: with another seed or other shares, give an empty one.

    Args:
        members: one a key.
        previous: key -> split, the `memory` of the run before; images that are gone don't matter.
        rules: shares, seed, and what the source gives.
    """
    placed = {member.key: split for member in members if (split := _fixed(member, previous, rules))}
    leaks: dict[str, str] = {}
    together = [member for member in members if _names(member)]
    _leave_out(together, placed, leaks)
    anchor_of = anchors(together)
    clusters: dict[str, list[ImageToSplit]] = defaultdict(list)
    for member in together:
        clusters[anchor_of[member.key]].append(member)
    for cluster in clusters.values():
        _settle(cluster, placed, leaks, rules)
    _leave_out(together, placed, leaks)
    alone = [member for member in members if member.key not in placed and not _names(member)]
    placed.update(_draw_together(alone, rules))
    _name_again(together, placed, leaks)
    splits = {key: split for key, split in placed.items() if key not in leaks}
    return Assignment(splits, leaks, {key: previous[key] for key in leaks if key in previous} | splits)


def _names(member: ImageToSplit) -> list[_Name]:
    names = (("group", member.group), ("near_duplicates", member.near_duplicates))
    return [(kind, name) for kind, name in names if name is not None]


def _anchor(cluster: Sequence[ImageToSplit]) -> str:
    named = [member.group for member in cluster if member.group is not None]
    return f"group:{min(named)}" if named else min(member.key for member in cluster)


def _allowed(member: ImageToSplit, rules: Rules) -> frozenset[str]:
    """The splits that an image may be in: those that the source doesn't give are carved from its train."""
    if member.given in HELD_OUT:
        return frozenset({member.given})
    carved = frozenset(HELD_OUT) if member.given is None else frozenset(HELD_OUT) - rules.given_splits
    return carved | {"train"}


def _fixed(member: ImageToSplit, previous: Mapping[str, str], rules: Rules) -> str | None:
    allowed = _allowed(member, rules)
    if len(allowed) == 1:
        return next(iter(allowed))
    before = previous.get(member.key)
    return before if before in allowed else None


def _settle(cluster: Sequence[ImageToSplit], placed: dict[str, str], leaks: dict[str, str], rules: Rules) -> None:
    """Place the new images of a cluster with their relatives, then the relatives of these; draw for the rest."""
    waiting = [member for member in cluster if member.key not in placed]
    while waiting:
        mates = _mates(cluster, placed, leaks)
        undecided = []
        for member in waiting:
            found = {split: key for name in _names(member) for split, key in mates.get(name, {}).items()}
            if not found:
                undecided.append(member)
            elif len(found) == 1 and found.keys() <= _allowed(member, rules):
                placed[member.key] = next(iter(found))
            else:
                leaks[member.key] = next(found[split] for split in HELD_OUT if split in found)
        if len(undecided) == len(waiting):
            placed.update(_draw_together(undecided, rules))
            return
        waiting = undecided


def _draw_together(members: Sequence[ImageToSplit], rules: Rules) -> dict[str, str]:
    shares = (rules.validation_fraction, rules.test_fraction)
    return {
        key: assign_split(anchor, None, rules.given_splits, *shares, rules.seed)
        for key, anchor in anchors(members).items()
    }


def _mates(
    members: Sequence[ImageToSplit], placed: Mapping[str, str], leaks: Collection[str]
) -> dict[_Name, dict[str, str]]:
    """For each group and set of near duplicates its splits, with the smallest key there; leaks don't count."""
    mates: dict[_Name, dict[str, str]] = defaultdict(dict)
    for member in members:
        if member.key in placed and member.key not in leaks:
            split = placed[member.key]
            for name in _names(member):
                mates[name][split] = min(member.key, mates[name].get(split, member.key))
    return mates


def _leave_out(members: Sequence[ImageToSplit], placed: Mapping[str, str], leaks: dict[str, str]) -> None:
    """Make leaks of images that share a group, or are near duplicates, with an image in a more held-out split."""
    for number, split in enumerate(HELD_OUT):
        mates = _mates(members, placed, leaks)
        torn = {name: found[split] for name, found in mates.items() if split in found and len(found) > 1}
        for member in members if torn else ():
            if member.key in leaks or placed.get(member.key) in (None, *HELD_OUT[: number + 1]):
                continue
            found = [torn[name] for name in _names(member) if name in torn]
            if found:
                leaks[member.key] = min(found)


def _name_again(members: Sequence[ImageToSplit], placed: Mapping[str, str], leaks: dict[str, str]) -> None:
    """Of the images that keep a leak out, name the smallest of the most held-out split, in whatever order they came."""
    mates = _mates(members, placed, leaks)
    for member in members:
        if member.key not in leaks:
            continue
        for split in HELD_OUT:
            found = [mates[name][split] for name in _names(member) if split in mates[name]]
            if found:
                leaks[member.key] = min(found)
                break
