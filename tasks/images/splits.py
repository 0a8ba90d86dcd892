"""Assigns images to splits: an image never moves to another split, and images that belong together stay together.

A single image is drawn by its content hash, so it is in the same split on every machine, and every class has the wanted
shares up to chance. Images that belong together (one group of the source, such as a patient, product or video; or near
duplicates) are drawn together. Such groups grow and merge when images are added, so the splits of the previous run
matter: an image keeps its split, and new images join the split of their group.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

_Name = tuple[str, str]

HELD_OUT = ("test", "validation")
"""The most held-out split first. If images that belong together are in two splits, the first split keeps its images."""


@dataclass(frozen=True, slots=True)
class ImageToSplit:
    """An image to be assigned.

    Attributes:
        key: content hash of the image.
        given: the split that the source assigns to it, if any.
        group: the group that the source assigns to it (patient, product, video), if any.
        near_duplicates: name of its set of near duplicates; None if it has no near duplicates.
    """

    key: str
    given: str | None = None
    group: str | None = None
    near_duplicates: str | None = None


@dataclass(frozen=True)
class Rules:
    """Shares of the splits, the seed, and the splits that the source assigns; other splits are drawn from its train."""

    validation_fraction: float
    test_fraction: float
    seed: int
    given_splits: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Assignment:
    """The splits of the usable images.

    Attributes:
        splits: key -> split. No group and no set of near duplicates is in two splits.
        leaks: key -> the key of a held-out image in `splits` that it belongs with. Leaks must be left out.
        memory: the argument `previous` of the next run; it also holds the earlier splits of leaks.
    """

    splits: dict[str, str]
    leaks: dict[str, str]
    memory: dict[str, str]


def draw(key: str, seed: int) -> float:
    """A number in [0, 1) that depends only on the key and the seed."""
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
    """`train`, `validation` or `test` for an image that belongs with no other image.

    Args:
        key: content hash of the image.
        given: the split that the source assigns to it, if any.
        given_splits: all splits that the source assigns; other splits are drawn from train.
        validation_fraction: share of the images that are drawn, like `test_fraction`.
        seed: seed of the splits.
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
    """Key -> the anchor by which an image is drawn; images connected by groups and near duplicates share one.

    The anchor is the smallest name of a source's group among the connected images (as `group:<name>`), else their
    smallest key.
    """
    anchor_of = {member.key: member.key for member in members}
    named = [(member, names) for member in members if (names := _names(member))]
    if not named:
        return anchor_of
    from scipy.cluster.hierarchy import DisjointSet  # takes most of a second; not needed if all images are unrelated

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
    """Assign all images to splits; images keep the splits of the previous run.

    1. An image keeps a held-out split that the source assigns. Otherwise it keeps its previous split if the source
       still allows it (the source's train images can't be in another split that the source assigns).
    2. If a group or a set of near duplicates is now in two splits (because of the source, or because sets merged), its
       images in the most held-out split stay, and the others are leaks, to be left out. So an image with a split keeps
       it or is left out; it never moves.
    3. New images join the split of their group and their near duplicates. If an image would have to join several
       splits, or a split that the source forbids, it is left out, and no other image moves.
    4. If no image of a group or of a set of near duplicates has a split yet, all are drawn by their anchor (see
       `anchors`).

    The order of the members doesn't matter. An image without group and near duplicates gets the split of
    `assign_split`, unless its previous split differs. `previous` must come from the same rules: after a change of the
    seed or the shares, pass an empty one.

    Args:
        members: one for each key.
        previous: key -> split, the `memory` of the previous run; images that no longer exist don't matter.
        rules: shares, seed, and the splits of the source.
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
    """The splits that an image may be in; splits that the source doesn't assign are drawn from its train."""
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
    """Place the new images of a cluster with their relatives, then the relatives of those; draw the others."""
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
    """Group or set of near duplicates -> its splits, each with its smallest key; leaks don't count."""
    mates: dict[_Name, dict[str, str]] = defaultdict(dict)
    for member in members:
        if member.key in placed and member.key not in leaks:
            split = placed[member.key]
            for name in _names(member):
                mates[name][split] = min(member.key, mates[name].get(split, member.key))
    return mates


def _leave_out(members: Sequence[ImageToSplit], placed: Mapping[str, str], leaks: dict[str, str]) -> None:
    """Make an image a leak if it shares a group or a set of near duplicates with an image in a more held-out split."""
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
    """For each leak, name the image that keeps it out: the smallest key of its relatives in the most held-out split."""
    mates = _mates(members, placed, leaks)
    for member in members:
        if member.key not in leaks:
            continue
        for split in HELD_OUT:
            found = [mates[name][split] for name in _names(member) if split in mates[name]]
            if found:
                leaks[member.key] = min(found)
                break
