"""Fills the splits that a class lacks: drawn by hashes alone, a class of few images often has none in some split.

Of 100 classes with 5 images each, some class is without a training image in two thirds of the draws. So if a class has
no image in a split, one of its images (with all that belong together with it) moves there, as few as possible.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ORDER = ("train", "test", "validation")
"""The most important split first: a class of two images is in train and test."""

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Unit:
    """Images that were drawn together in this run: the number in [0, 1) that they drew, and how many of each class."""

    name: str
    number: float
    labels: Counter[str]


def count_classes(placed: Mapping[str, str], label_of: Mapping[str, str]) -> dict[str, Counter[str]]:
    """Class -> split -> images."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for key, split in placed.items():
        if key in label_of:
            counts[label_of[key]][split] += 1
    return counts


def lacking(counts: Mapping[str, Counter[str]], shares: Mapping[str, Interval]) -> set[str]:
    """The classes without an image in one of the splits."""
    return {label for label, found in counts.items() if any(not found[split] for split in shares)}


def fill_splits(
    units: Sequence[Unit], here: dict[str, str], counts: dict[str, Counter[str]], shares: Mapping[str, Interval]
) -> dict[str, str]:
    """Name -> split of the units that must move, so that no class lacks a split if that is possible.

    A unit doesn't move if one of its classes would then lack a more important split than the one to be filled. The unit
    comes from the split where the class has most above its share; there it is the one whose number is nearest to the
    interval of the split to be filled, but not most of the class if others will do.

    Args:
        units: what may move; all units of the classes that lack a split.
        here: name -> split of the units; updated.
        counts: from `count_classes`, over all images that stay in the data; updated.
        shares: split -> interval of the numbers that draw it; only splits with a share are filled.
    """
    units_of: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        for label in unit.labels:
            units_of[label].append(unit)
    moved = {}
    missing = sorted(lacking(counts, shares))
    for split, label in ((split, label) for split in ORDER if split in shares for label in missing):
        able = [unit for unit in units_of[label] if _may_leave(unit, here[unit.name], split, counts)]
        if able and not counts[label][split]:
            costs = {unit: _cost(unit, label, here[unit.name], split, counts[label], shares) for unit in able}
            best = min(able, key=costs.__getitem__)
            for one, n in best.labels.items():
                counts[one].subtract({here[best.name]: n, split: -n})
            here[best.name] = moved[best.name] = split
    return moved


def _may_leave(unit: Unit, here: str, split: str, counts: Mapping[str, Counter[str]]) -> bool:
    """Whether no class of the unit loses its last image in a split that is more important than the one to be filled."""
    return ORDER.index(here) > ORDER.index(split) or all(counts[label][here] > n for label, n in unit.labels.items())


def _cost(
    unit: Unit, label: str, here: str, split: str, found: Counter[str], shares: Mapping[str, Interval]
) -> tuple[bool, float, float, str]:
    start, end = shares[here]
    low, high = shares[split]
    surplus = found[here] - found.total() * (end - start)
    distance = max(low - unit.number, unit.number - high, 0.0)
    return 2 * unit.labels[label] > found.total(), -surplus, distance, unit.name
