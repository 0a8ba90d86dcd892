"""The two directions in which images differ most, by the averaged features of the published network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.images.shards import Shards

BATCH = 256
"""How many images' features are in memory together."""
Rows = npt.NDArray[np.floating[Any]]


def read_averages(features: Shards, keys: Sequence[str]) -> Rows:
    """(n, c) float32: the mean of each channel over all places, of unit length for each image.

    Args:
        features: bottleneck features (h, w, c).
        keys: of any number of images; they are read in batches.
    """
    averages = np.empty((len(keys), features.shape[-1]), np.float32)
    number = {key: place for place, key in enumerate(keys)}
    ordered = features.order(keys)
    for start in range(0, len(ordered), BATCH):
        batch = ordered[start : start + BATCH]
        averages[[number[key] for key in batch]] = features.read(batch).mean(axis=(1, 2), dtype=np.float32)
    lengths = np.linalg.norm(averages, axis=1, keepdims=True)
    averages /= np.where(lengths > 0, lengths, 1)
    return averages


def principal_components(rows: Rows) -> tuple[Rows, float]:
    """Positions (n, 2) along the two directions of the largest variance, and the share of the variance they show.

    The sign of a direction is such that its largest coefficient is positive. Without any variance, all are at 0.
    """
    centred = rows - rows.mean(axis=0)
    products = (centred.T @ centred).astype(np.float64)
    values, vectors = np.linalg.eigh(products)
    total = float(np.trace(products))
    if total <= 0 or rows.shape[1] < 2:
        return np.zeros((len(rows), 2)), 0.0
    chosen = vectors[:, [-1, -2]]
    chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(axis=0), [0, 1]])
    return centred @ chosen, min(1.0, float(values[-2:].sum()) / total)
