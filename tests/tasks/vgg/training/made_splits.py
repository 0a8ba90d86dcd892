"""Splits with made features, for tests of what a linear probe learns from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from tasks.images.shards import open_shards, write_shard
from tasks.vgg.training_data import Split


def make_splits(
    folder: Path, sizes: tuple[int, int], classes: int = 3, channels: int = 8, noise: float = 1.0, seed: int = 0
) -> list[Split]:
    """Train and validation with features (2, 2, channels), classes in turn: a mean for each class, and noise."""
    random = np.random.default_rng(seed)
    means = random.normal(size=(classes, channels))
    labels = np.concatenate([np.arange(size) % classes for size in sizes]).astype(np.int32)
    arrays = means[labels][:, None, None] + random.normal(scale=noise, size=(len(labels), 2, 2, channels))
    return write_splits(folder, np.maximum(0, arrays), labels, sizes[0])


def write_splits(folder: Path, arrays: np.ndarray, labels: np.ndarray, train: int) -> list[Split]:
    """The first examples are those of train, the others those of validation."""
    keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(len(labels))]
    write_shard(folder, [{"key": key} for key in keys], arrays.astype(np.float16), "made here")
    shards = open_shards(folder)
    parts = (slice(None, train), slice(train, None))
    return [Split(shards, tuple(keys[part]), labels[part]) for part in parts]
