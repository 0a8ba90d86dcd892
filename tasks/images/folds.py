"""Folds for cross-validation: images that belong together are in one fold, and classes are spread evenly."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from tasks.images.manifest import Duplicate, Example
from tasks.images.splits import ImageToSplit, anchors, draw


def assign_fold(key: str, folds: int, seed: int) -> int:
    """The fold 0...folds-1 in which an image is held out; as stable as `draw`, and independent of the split.

    Args:
        key: content hash of the image; or its anchor (see `splits.anchors`), which keeps groups together.
        folds: 2 or more.
        seed: seed of the folds.
    """
    if folds < 2:
        raise ValueError(f"folds must be 2 or more. Received: {folds}")
    return int(draw(f"fold:{key}", seed) * folds)


def groups_of(examples: Sequence[Example], duplicates: Sequence[Duplicate]) -> dict[str, str]:
    """Key -> a name that images share if they belong together: by the source's group, or as near duplicates.

    Args:
        examples: one for each key.
        duplicates: of the same run; see `manifest.read_duplicates`. Without them, near duplicates are apart.
    """
    looks = {row.path: row.of_path for row in duplicates if row.outcome == "kept_together"}
    looks |= {path: path for path in looks.values()}
    return anchors([ImageToSplit(one.key, None, one.group, looks.get(one.path)) for one in examples])


def number_groups(examples: Sequence[Example], duplicates: Sequence[Duplicate]) -> dict[str, int]:
    """Key -> the number of the image's group; see `groups_of`."""
    names = groups_of(examples, duplicates)
    numbers = {name: number for number, name in enumerate(sorted(set(names.values())))}
    return {key: numbers[name] for key, name in names.items()}


def assign_folds(
    examples: Sequence[Example], duplicates: Sequence[Duplicate], folds: int, seed: int, partial: bool = False
) -> dict[str, int]:
    """Key -> the fold 0...folds-1 in which an image is held out, for cross-validation over these examples.

    Images that belong together (by the source's group, or because `duplicates` keeps them together) are in one fold.
    Each class is spread evenly: without such clusters, its counts in two folds differ by at most 1. With clusters, the
    largest are placed first, each into the fold that has the fewest images of its classes so far; `assign_fold` decides
    ties. The order of the examples doesn't matter. New examples may change the folds of others.

    Args:
        examples: one for each key; their splits don't matter.
        duplicates: of the same run; see `manifest.read_duplicates`. Without them, near duplicates may be separated.
        folds: 2 or more.
        seed: seed of the folds.
        partial: a class of too few images is held out in some folds only. If its images would all be in one fold, no
            other images of it were left to learn from: they get no fold, nor do those that belong to them.

    Raises:
        ValueError: a class has fewer images that don't belong together than there are folds (`partial`: all have).
    """
    anchor_of = groups_of(examples, duplicates)
    clusters: dict[str, Counter[str]] = defaultdict(Counter)
    for one in examples:
        clusters[anchor_of[one.key]][one.label] += 1
    sizes = Counter(one.label for one in examples)
    _check_folds(clusters.values(), sizes, folds, partial)
    filled = [Counter[str]() for _ in range(folds)]
    fold_of = {}
    for anchor in sorted(clusters, key=lambda name: (-clusters[name].total(), draw(name, seed))):
        labels, drawn = clusters[anchor], assign_fold(anchor, folds, seed)

        def cost(fold: int, labels: Counter[str] = labels, drawn: int = drawn) -> tuple[float, int, int]:
            share = sum(count * filled[fold][label] / sizes[label] for label, count in sorted(labels.items()))
            return share, filled[fold].total(), (fold - drawn) % folds

        fold_of[anchor] = min(range(folds), key=cost)
        filled[fold_of[anchor]] += labels
    in_one_fold = {label for label in sizes if sum(label in labels for labels in filled) == 1} if partial else set()
    fold_of = {anchor: fold for anchor, fold in fold_of.items() if not in_one_fold & clusters[anchor].keys()}
    return {key: fold_of[anchor] for key, anchor in anchor_of.items() if anchor in fold_of}


def _check_folds(clusters: Collection[Counter[str]], sizes: Mapping[str, int], folds: int, partial: bool) -> None:
    apart = Counter(label for labels in clusters for label in labels)
    few = [f"{label!r} ({apart[label]})" for label in sorted(sizes) if apart[label] < folds]
    if few and not (partial and len(few) < len(sizes)):
        raise ValueError(
            f"Every fold needs an image of every class. Received: folds={folds}, and classes with fewer images "
            f"that don't belong together: {', '.join(few)}"
        )
