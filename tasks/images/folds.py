"""Folds of cross-validation: images that belong together are in one fold, and classes are spread evenly."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from tasks.images.manifest import Duplicate, Example
from tasks.images.splits import ImageToSplit, anchors, draw


def assign_fold(key: str, folds: int, seed: int) -> int:
    """The fold 0...folds-1 in which an image is held out; as stable as `draw`, and independent of the split.

    Args:
        key: content hash of the image; with groups, what `anchors` gives for it, so that they stay together.
        folds: 2 or more.
        seed: another seed gives other folds.
    """
    if folds < 2:
        raise ValueError(f"folds must be 2 or more. Received: {folds}")
    return int(draw(f"fold:{key}", seed) * folds)


def assign_folds(examples: Sequence[Example], duplicates: Sequence[Duplicate], folds: int, seed: int) -> dict[str, int]:
    """Key -> the fold 0...folds-1 in which an image is held out, for cross-validation over these examples.

    What belongs together (the source's group, and what `duplicates` says is kept together) is in one fold. Each class
    is spread evenly: without such clusters its counts in two folds differ by 1 at most; with them the largest are
    placed first, each where there is least of its classes so far; ties go to what `assign_fold` draws. The same
    examples give the same folds, in whatever order they come; others may give others.

    Args:
        examples: one a key; their splits don't matter.
        duplicates: of the same run; see `manifest.read_duplicates`. Without them, near duplicates may be torn apart.
        folds: 2 or more.
        seed: another seed gives other folds.

    Raises:
        ValueError: a class has fewer images that don't belong together than there are folds.
    """
    looks = {row.path: row.of_path for row in duplicates if row.outcome == "kept_together"}
    looks |= {path: path for path in looks.values()}
    anchor_of = anchors([ImageToSplit(one.key, None, one.group, looks.get(one.path)) for one in examples])
    clusters: dict[str, Counter[str]] = defaultdict(Counter)
    for one in examples:
        clusters[anchor_of[one.key]][one.label] += 1
    sizes = Counter(one.label for one in examples)
    _check_folds(clusters.values(), sizes, folds)
    filled = [Counter[str]() for _ in range(folds)]
    fold_of = {}
    for anchor in sorted(clusters, key=lambda name: (-clusters[name].total(), draw(name, seed))):
        labels, drawn = clusters[anchor], assign_fold(anchor, folds, seed)

        def cost(fold: int, labels: Counter[str] = labels, drawn: int = drawn) -> tuple[float, int, int]:
            share = sum(count * filled[fold][label] / sizes[label] for label, count in sorted(labels.items()))
            return share, filled[fold].total(), (fold - drawn) % folds

        fold_of[anchor] = min(range(folds), key=cost)
        filled[fold_of[anchor]] += labels
    return {key: fold_of[anchor] for key, anchor in anchor_of.items()}


def _check_folds(clusters: Collection[Counter[str]], sizes: Mapping[str, int], folds: int) -> None:
    apart = Counter(label for labels in clusters for label in labels)
    few = [f"{label!r} ({apart[label]})" for label in sorted(sizes) if apart[label] < folds]
    if few:
        raise ValueError(
            f"Every fold needs an image of every class. Received: folds={folds}, and classes with fewer images "
            f"that don't belong together: {', '.join(few)}"
        )
