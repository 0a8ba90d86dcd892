"""Mixed batches: each example is a weighted mean of two, and so is its label (H. Zhang et al., mixup, 2018).

The inputs are images, or the outputs of frozen blocks (V. Verma et al., Manifold Mixup, 2019): cached features can be
mixed, too. The mixture depends only on the seed and the position.
"""

from __future__ import annotations

import numpy as np

from tasks.images.shards import Array
from tasks.vgg.head import Floats
from tasks.vgg.training.feeds import Batch

Softened = tuple[Array, Floats, Floats]
"""Inputs (b, ...), shares of the classes (b, classes) float32 that add up to 1, weights (b,) float32 as in `Batch`."""


def soften(batch: Batch, classes: int) -> Softened:
    """The batch as it is, with the whole share for each example's class."""
    inputs, labels, weights = batch
    return inputs, np.eye(classes, dtype=np.float32)[labels], weights


def mix_examples(batch: Softened, alpha: float, position: tuple[int, ...]) -> Softened:
    """Mix each example with another one of the batch; padding stays as it is.

    Args:
        batch: to mix.
        alpha: of the Beta distribution of the other example's share; 1: uniform.
        position: seed, epoch, step: what the mixture depends on.
    """
    inputs, targets, weights = batch
    random = np.random.default_rng([*position])
    share, rows = np.float32(random.beta(alpha, alpha)), np.flatnonzero(weights)
    other = np.arange(len(weights))
    other[rows] = random.permutation(rows)
    mixed: Floats = (1 - share) * weights + share * weights[other]
    divisor = np.maximum(mixed, np.finfo(np.float32).tiny)
    own: Floats = ((1 - share) * weights / divisor)[:, np.newaxis].astype(np.float32)
    own[mixed == 0] = 1
    values = inputs.astype(np.float32)
    return (1 - share) * values + share * values[other], own * targets + (1 - own) * targets[other], mixed
