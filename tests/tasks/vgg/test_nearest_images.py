"""The nearest images by pooled features are those that a search over all of them at once finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.images.shards import open_shards, write_shard
from tasks.vgg import nearest_images
from tasks.vgg.head import pool
from tasks.vgg.nearest_images import find_nearest

RNG = np.random.default_rng(0)
FEATURES = np.maximum(RNG.normal(0, 5, (40, 3, 3, 8)), 0).astype(np.float16)
KEYS = [f"{number:02}" for number in range(40)]


def test_nearest_images_are_those_of_the_whole_table(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(nearest_images, "BATCH", 7)  # the 30 known images don't fit into one, nor into several
    for start in (0, 25):
        write_shard(tmp_path, [{"key": key} for key in KEYS[start : start + 25]], FEATURES[start : start + 25], "test")
    found = find_nearest(open_shards(tmp_path), KEYS[30:], KEYS[:30], 3)
    pooled = pool(FEATURES, "average_maximum").astype(np.float64)
    similarity = pooled[30:] @ pooled[:30].T / 2
    for row, near in zip(similarity, found, strict=True):
        best = np.argsort(-row)[:3]
        assert [one.key for one in near] == [KEYS[place] for place in best]
        np.testing.assert_allclose([one.similarity for one in near], row[best], atol=1e-5)


def test_image_is_most_like_itself_and_few_images_give_few(tmp_path: Path) -> None:
    write_shard(tmp_path, [{"key": key} for key in KEYS], FEATURES, "test")
    ((first, second),) = find_nearest(open_shards(tmp_path), KEYS[:1], KEYS[:2], 3)
    assert first.key == KEYS[0]
    assert abs(first.similarity - 1) < 1e-6
    assert second.key == KEYS[1]


def test_equally_near_images_come_in_the_order_of_their_keys(tmp_path: Path) -> None:
    write_shard(tmp_path, [{"key": key} for key in KEYS[::-1]], np.broadcast_to(FEATURES[:1], FEATURES.shape), "test")
    (found,) = find_nearest(open_shards(tmp_path), KEYS[:1], KEYS[1:], 3)
    assert [one.key for one in found] == KEYS[1:4]
