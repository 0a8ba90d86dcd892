"""Pooled features for the scores for foreign images, by the backbone that is exported.

A frozen backbone's features of all prepared images are kept. The images that are drawn here pass it once: the clone
keeps the results. A backbone that was trained further computes everything again, so fewer images are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tasks.files import fingerprint, sha256_hex, write_bytes
from tasks.images.augmentation import PLAIN
from tasks.progress import Progress
from tasks.vgg.far_images import draw_far_images
from tasks.vgg.head import Floats, Pooling, pool
from tasks.vgg.inference import BATCH, backbone_network, features_engine, features_reader
from tasks.vgg.weights import SHA256, Weights
from tasks.workspace import Workspace

POOLING: Pooling = "average_maximum"


def pool_known(backbone: Weights, workspace: Workspace, keys: Sequence[str]) -> Floats:
    """Pooled features (n, 1024) of prepared images, in the order of the keys.

    Args:
        backbone: its tensors that are not the published ones; empty: it stayed frozen.
        workspace: with images and features.
        keys: of the images, 1 or more.
    """
    read, pooled = features_reader(backbone, workspace), []
    with Progress("evaluate", len(keys), "images for the foreign score") if backbone else nullcontext() as progress:
        for start in range(0, len(keys), BATCH):
            pooled.append(pool(read(keys[start : start + BATCH], PLAIN), POOLING))
            if progress:
                progress.advance(len(pooled[-1]))
    return np.concatenate(pooled)


def pool_far(backbone: Weights, workspace: Workspace) -> Floats:
    """Pooled features (n, 1024) of the images of `far_images`."""
    images = draw_far_images()
    engine = features_engine(workspace)
    facts = [engine.name, engine.precision, SHA256, POOLING, sha256_hex(images.tobytes())]
    file = workspace.far_features / f"{fingerprint(facts)}.safetensors"
    kept = None if backbone else _read(file)
    if kept is None:
        compute = backbone_network(backbone, workspace)
        parts = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        kept = np.concatenate([pool(compute(part, PLAIN), POOLING) for part in parts])
        if not backbone:
            write_bytes(file, save({"pooled": kept}))
    return kept


def _read(file: Path) -> Floats | None:
    try:
        found: Floats = load(file.read_bytes())["pooled"]
    except (OSError, SafetensorError, KeyError):
        return None  # missing or damaged: the features are computed again
    return found
