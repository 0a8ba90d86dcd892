"""The images that are most alike to some images, by the pooled features of the published network.

The cosine of average and maximum pooled channels together, as in `head.pool`. Features of a network that was trained
further would show what it made alike; these show what is alike, and they are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tasks.images.shards import Shards
from tasks.vgg.head import Floats, pool

BATCH = 256
"""How many images' features are in memory together."""


class Near(NamedTuple):
    """An image, and the cosine between its features and those of the image that it was found for."""

    key: str
    similarity: float


def find_nearest(features: Shards, wanted: Sequence[str], known: Sequence[str], count: int) -> list[list[Near]]:
    """For each wanted image, the `count` most alike of the known ones, the most alike first.

    Args:
        features: bottleneck features, of both.
        wanted: keys of few images.
        known: keys of any number of images; they are read in batches.
        count: fewer are returned if fewer are known.
    """
    if not wanted:
        return []
    queries = _pooled(features, wanted)
    best: list[list[Near]] = [[] for _ in wanted]
    ordered = features.order(known)
    for start in range(0, len(ordered), BATCH):
        keys = sorted(ordered[start : start + BATCH])
        similarity = np.round((queries @ _pooled(features, keys).T).astype(np.float64), 6)
        for near, row in zip(best, similarity, strict=True):
            places = np.argsort(-row, kind="stable")[:count]  # of equal ones the first keys, wherever they are stored
            near += [Near(keys[place], float(row[place])) for place in places]
            near.sort(key=lambda one: (-one.similarity, one.key))
            del near[count:]
    return best


def _pooled(features: Shards, keys: Sequence[str]) -> Floats:
    """(n, 2c) of unit length; both halves have the same length."""
    return pool(features.read(keys), "average_maximum") / np.float32(np.sqrt(2))
