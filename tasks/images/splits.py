"""Assigns images to splits: an image never moves to another split, and images that belong together stay together.

A single image is drawn by its content hash, so it is in the same split on every machine, and every class has the wanted
shares up to chance. Images that belong together (one group of the source, such as a patient, product or video; or near
duplicates) are drawn together. If a class then lacks a split, some of its newly drawn images move there
(`stratification`). Groups grow and merge when images are added, and a class may lack a split no longer, so the splits
of the previous run matter: an image keeps its split, and new images join the split of their group.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tasks.images.stratification import Interval, Unit, count_classes, fill_splits, lacking

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
        label: its class; without one, the image doesn't count when splits are filled that a class lacks.
    """

    key: str
    given: str | None = None
    group: str | None = None
    near_duplicates: str | None = None
    label: str | None = None


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
    shares = drawn_shares(Rules(validation_fraction, test_fraction, seed, frozenset(given_splits)))
    return _split_at(draw(key, seed), shares)


def drawn_shares(rules: Rules) -> dict[str, Interval]:
    """Split -> the interval of the numbers that draw it; a split that the source assigns isn't drawn, but train is."""
    shares, end = {}, 0.0
    for split, fraction in (("test", rules.test_fraction), ("validation", rules.validation_fraction)):
        if fraction and split not in rules.given_splits:
            shares[split] = (end, end + fraction)
            end += fraction
    return shares | {"train": (end, 1.0)}


def _split_at(number: float, shares: Mapping[str, Interval]) -> str:
    return next(split for split, (_, end) in shares.items() if number < end)


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
    5. If a class then has no image in a split that is drawn, some of the images that were drawn in this run move there
       (`stratification.fill_splits`).

    The order of the members doesn't matter. An image without group and near duplicates gets the split of
    `assign_split`, unless its previous split differs or its class needs it elsewhere. `previous` must come from the
    same rules: after a change of the seed or the shares, pass an empty one.

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
    drawn = {member.key: member.key for member in members if member.key not in placed and not _names(member)}
    for cluster in clusters.values():
        drawn |= _settle(cluster, placed, leaks, rules)
    _leave_out(together, placed, leaks)
    shares = drawn_shares(rules)
    placed |= {key: _split_at(draw(anchor, rules.seed), shares) for key, anchor in drawn.items()}
    placed |= _fill(members, drawn, placed, leaks, rules)
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


def _settle(
    cluster: Sequence[ImageToSplit], placed: dict[str, str], leaks: dict[str, str], rules: Rules
) -> dict[str, str]:
    """Place the new images of a cluster with their relatives, then the relatives of those.

    Returns:
        Key -> anchor of the other new images, which must be drawn: they belong with no image that has a split.
    """
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
            return anchors(undecided)
        waiting = undecided
    return {}


def _fill(
    members: Sequence[ImageToSplit],
    drawn: Mapping[str, str],
    placed: Mapping[str, str],
    leaks: Collection[str],
    rules: Rules,
) -> dict[str, str]:
    """Key -> split of the images that move to a split that their class lacks."""
    label_of = {member.key: member.label for member in members if member.label is not None}
    counts = count_classes({key: split for key, split in placed.items() if key not in leaks}, label_of)
    shares = drawn_shares(rules)
    missing = lacking(counts, shares)
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for key, anchor in drawn.items() if missing else ():
        if key in label_of:
            labels[anchor][label_of[key]] += 1
    units = [
        Unit(anchor, draw(anchor, rules.seed), found) for anchor, found in labels.items() if found.keys() & missing
    ]
    here = {anchor: placed[key] for key, anchor in drawn.items()}
    moved = fill_splits(units, here, counts, shares)
    return {key: moved[anchor] for key, anchor in drawn.items() if anchor in moved}


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
