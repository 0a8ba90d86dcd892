"""Pooled features for the scores for foreign images, by the backbone that is exported.

A frozen backbone's features of all prepared images are kept, and those of the images that are drawn here are the same
everywhere. A backbone that was trained further computes everything again, so fewer images are used, and the engine is
that of training images, which may be faster than that of held-out images.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from tasks.images.augmentation import PLAIN
from tasks.progress import Progress
from tasks.vgg.far_images import draw_far_images
from tasks.vgg.head import Floats, Pooling, pool
from tasks.vgg.inference import BATCH, backbone_network, features_reader, training_engine
from tasks.vgg.weights import Weights
from tasks.workspace import Workspace

POOLING: Pooling = "average_maximum"
FAR_FEATURES = Path(__file__).with_name("far_features.safetensors")
"""Pooled features, in 16 bit, that the published weights give for the drawn images; see `tests.far_features`."""


def pool_known(backbone: Weights, workspace: Workspace, keys: Sequence[str]) -> Floats:
    """Pooled features (n, 1024) of prepared images, in the order of the keys.

    Args:
        backbone: its tensors that are not the published ones; empty: it stayed frozen.
        workspace: with images and features.
        keys: of the images, 1 or more.
    """
    engine = training_engine(workspace) if backbone else None
    read, pooled = features_reader(backbone, workspace, engine), []
    with Progress("evaluate", len(keys), "images for the foreign score") if backbone else nullcontext() as progress:
        for start in range(0, len(keys), BATCH):
            pooled.append(pool(read(keys[start : start + BATCH], PLAIN), POOLING))
            if progress:
                progress.advance(len(pooled[-1]))
    return np.concatenate(pooled)


def pool_far(backbone: Weights, workspace: Workspace) -> Floats:
    """Pooled features (n, 1024) of the images of `far_images`; those of a frozen backbone are in `FAR_FEATURES`."""
    if not backbone:
        kept: Floats = load(FAR_FEATURES.read_bytes())["pooled"].astype(np.float32)
        return kept
    images, compute = draw_far_images(), backbone_network(backbone, workspace, training_engine(workspace))
    parts = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return np.concatenate([pool(compute(part, PLAIN), POOLING) for part in parts])
