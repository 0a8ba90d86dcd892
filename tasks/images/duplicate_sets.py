"""Sets of near duplicates: which are kept in one split, and which images are refused as copies with another label.

Photographs that look the same to a perceptual hash are copies of one photograph. But all images of a fixed camera, all
screenshots of a program and all frames of a video look the same to it, and their labels differ for good reasons. So:

- Across labels, only copies are refused: images with equal pixels, or, in a set of fewer than `LARGE` images, two
  images that also agree at 32x32. Only these two are refused, not what else is in their set.
- A large set that holds at least half of a class is not kept in one split: the other splits would have next to nothing
  of the class. Its images are split like different images, also in later runs, when the set may be a smaller share.
"""

from __future__ import annotations

import base64
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.images.columns import ShardRow
from tasks.images.decoding import Pixels
from tasks.images.duplicates import equal_pairs, find_duplicates, groups
from tasks.images.manifest import Discovered
from tasks.images.perceptual_hash import are_copies, stack

FactsOf = Callable[[str], ShardRow]
"""Key -> the facts from decoding, as stored in a shard's header (`decoding.ImageFacts`)."""
PixelsOf = Callable[[Sequence[str]], Pixels]
"""Keys -> decoded pixels (n, 224, 224, 3)."""

LARGE = 10
COPY_BITS = 2
"""Most bits in which the hashes of copies differ."""
_HASH_BYTES = 8


@dataclass(frozen=True)
class LargeSet:
    """A set of `LARGE` or more near duplicates.

    Attributes:
        n: images in the set.
        label: the class of which it holds the largest share: `of_label` of `class_size` images.
        apart: whether its images are split like different images.
        paths: the first two.
    """

    n: int
    label: str
    of_label: int
    class_size: int
    apart: bool
    paths: tuple[str, ...]


def near_duplicate_sets(keys: Sequence[str], facts: FactsOf, radius: int) -> dict[str, str]:
    """Key -> the smallest key of its set of near duplicates, for keys that have near duplicates; see `duplicates`.

    With the radius 0, only images with equal pixels are duplicates.
    """
    if not keys:
        return {}
    pairs = [equal_pairs([facts(key)["pixels"] for key in keys])]
    if radius:
        stored = [base64.b64decode(facts(key)["look"]) for key in keys]
        hashes = np.array([int.from_bytes(look[:_HASH_BYTES], "big") for look in stored], np.uint64)
        pairs.append(find_duplicates(hashes, stack([look[_HASH_BYTES:] for look in stored]), radius))
    place_of = groups(len(keys), np.concatenate(pairs))
    members: dict[int, list[str]] = defaultdict(list)
    for key, place in zip(keys, place_of.tolist(), strict=True):
        members[place].append(key)
    return {key: min(group) for group in members.values() if len(group) > 1 for key in group}


def find_conflicts(
    set_of: Mapping[str, str], label_of: Mapping[str, str], facts: FactsOf, pixels_of: PixelsOf
) -> dict[str, str]:
    """Key -> the smallest key of a copy of it that has another label."""
    conflicts: dict[str, str] = {}
    for members in _members(set_of).values():
        if len({label_of[key] for key in members}) > 1:
            for one, other in _copies(members, label_of, facts, pixels_of):
                for key, of in ((one, other), (other, one)):
                    conflicts[key] = min(of, conflicts.get(key, of))
    return conflicts


def large_sets(
    set_of: Mapping[str, str], rows: Mapping[str, Discovered], apart: Collection[str]
) -> dict[str, LargeSet]:
    """Name -> a set of `LARGE` or more images, or one that was not kept together in an earlier run.

    Args:
        set_of: key -> name of its set.
        rows: key -> row, for all images that stay in the data, not only for those in sets.
        apart: keys whose sets were not kept together in an earlier run.
    """
    class_sizes = Counter(row.label for row in rows.values())
    found = {}
    for name, members in _members(set_of).items():
        loose = any(key in apart for key in members)
        if loose or len(members) >= LARGE:
            counts = Counter(rows[key].label for key in members)
            label = max(sorted(counts), key=lambda label: counts[label] / class_sizes[label])
            loose |= any(n >= LARGE and 2 * n >= class_sizes[label] for label, n in counts.items())
            paths = sorted(rows[key].path for key in members)[:2]
            found[name] = LargeSet(len(members), label, counts[label], class_sizes[label], loose, tuple(paths))
    return found


def _members(set_of: Mapping[str, str]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = defaultdict(list)
    for key, name in set_of.items():
        members[name].append(key)
    return members


def _copies(
    members: Sequence[str], label_of: Mapping[str, str], facts: FactsOf, pixels_of: PixelsOf
) -> Iterator[tuple[str, str]]:
    """Pairs of different labels within a set that are copies."""
    by_pixels: dict[str, dict[str, str]] = defaultdict(dict)
    for key in sorted(members):
        by_pixels[facts(key)["pixels"]].setdefault(label_of[key], key)
    for key in members:
        same = by_pixels[facts(key)["pixels"]]
        yield from ((key, of) for label, of in same.items() if label != label_of[key])
    if len(members) >= LARGE:
        return
    pixels = dict(zip(members, pixels_of(members), strict=True))
    hashes = {key: int.from_bytes(base64.b64decode(facts(key)["look"])[:_HASH_BYTES], "big") for key in members}
    for one, other in itertools.combinations(members, 2):
        near = label_of[one] != label_of[other] and (hashes[one] ^ hashes[other]).bit_count() <= COPY_BITS
        if near and are_copies(pixels[one], pixels[other]):
            yield one, other
