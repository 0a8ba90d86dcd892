"""Which held-out images a model has seen in training, as they are or as near duplicates."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tasks.images.duplicate_sets import near_duplicate_sets
from tasks.images.shards import Shards


def known_images(
    held_out: Sequence[str],
    shards: Shards,
    learned: Sequence[str],
    learned_shards: Shards,
    apart: Collection[str],
    radius: int,
) -> set[str]:
    """The held-out images that are among the learned ones, or near duplicates of some.

    Args:
        held_out: keys of examples.
        shards: of the images of `held_out`; their headers hold what tells near duplicates.
        learned: keys of the examples that the model has learned from; `learned_shards` likewise.
        apart: keys of images that are split like different images, because too many of a class look alike. Only equal
            pixels count for them.
        radius: `prepare.near_duplicate_bits`.
    """
    pixels = {learned_shards.row(key)["pixels"] for key in learned}
    same = set(held_out) & set(learned) | {key for key in held_out if shards.row(key)["pixels"] in pixels}
    left = [key for key in held_out if key not in same and key not in apart]
    others = [key for key in learned if key not in apart and key not in left]
    own = set(left)
    sets = near_duplicate_sets(
        [*left, *others], lambda key: shards.row(key) if key in own else learned_shards.row(key), radius
    )
    known = {sets[key] for key in others if key in sets}
    return same | {key for key in left if sets.get(key) in known}
