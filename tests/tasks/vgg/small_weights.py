"""VGG16 with other weights: few channels would do, but the shapes are part of what is tested."""

from __future__ import annotations

import functools

import numpy as np

from tasks.vgg.weights import BLOCKS, Weights


@functools.cache
def random_weights() -> Weights:
    """Seeded weights of VGG16's shapes, scaled so that activations stay of the same size (He)."""
    rng = np.random.default_rng(0)
    weights: Weights = {}
    channels = 3
    for block, (filters, convolutions) in enumerate(BLOCKS, 1):
        for conv in range(1, convolutions + 1):
            scale = np.float32((2 / (9 * channels)) ** 0.5)
            name = f"block{block}_conv{conv}"
            weights[f"{name}/kernel"] = rng.standard_normal((3, 3, channels, filters), np.float32) * scale
            weights[f"{name}/bias"] = rng.standard_normal(filters, np.float32)
            channels = filters
    return weights
