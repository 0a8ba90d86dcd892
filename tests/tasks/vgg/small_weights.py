"""VGG16 with other weights, and a miniature of it."""

from __future__ import annotations

import functools

import numpy as np

from tasks.vgg.weights import BLOCKS, Weights


@functools.cache
def random_weights() -> Weights:
    """Seeded weights of VGG16's shapes, scaled so that activations stay of the same size (He)."""
    return _draw([filters for filters, _ in BLOCKS])


@functools.cache
def tiny_weights() -> Weights:
    """A miniature with VGG16's topology and few filters."""
    return _draw([4, 4, 6, 6, 8])


def _draw(filters: list[int]) -> Weights:
    rng = np.random.default_rng(0)
    weights: Weights = {}
    channels = 3
    for block, (count, (_, convolutions)) in enumerate(zip(filters, BLOCKS, strict=True), 1):
        for conv in range(1, convolutions + 1):
            scale = np.float32((2 / (9 * channels)) ** 0.5)
            name = f"block{block}_conv{conv}"
            weights[f"{name}/kernel"] = rng.standard_normal((3, 3, channels, count), np.float32) * scale
            weights[f"{name}/bias"] = rng.standard_normal(count, np.float32)
            channels = count
    return weights
