"""Pooled features for the scores for foreign images, by the backbone that is exported.

A frozen backbone's features of all prepared images are kept. The images that are drawn here pass it once: the clone
keeps the results. A backbone that was trained further computes everything again, from at most `MOST_COMPUTED` images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tasks.errors import IntegrityError
from tasks.files import fingerprint, sha256_hex, write_bytes
from tasks.images.shards import open_shards
from tasks.vgg.boundaries import BOTTLENECK
from tasks.vgg.engines import Pixels, build_extractor
from tasks.vgg.far_images import draw_far_images
from tasks.vgg.head import Floats, Pooling, pool
from tasks.vgg.inference import BATCH, features_engine
from tasks.vgg.weights import SHA256, Weights, load_weights
from tasks.workspace import Workspace

POOLING: Pooling = "average_maximum"
MOST_KEPT, MOST_COMPUTED = 3000, 500
"""At most so many known images are used, if their features are kept, and if they are computed for this alone."""


def pool_known(backbone: Weights, workspace: Workspace, keys: Sequence[str]) -> Floats:
    """Pooled features (n, 1024) of prepared images, in the order of the keys.

    Args:
        backbone: its tensors that are not the published ones; empty: it stayed frozen.
        workspace: with images and features.
        keys: of the images.
    """
    if backbone:
        images = open_shards(workspace.shards)
        return _compute(backbone, workspace, len(keys), lambda part: images.read(keys[part]))
    shards = open_shards(workspace.features / BOTTLENECK)
    parts = (shards.read(keys[start : start + BATCH]) for start in range(0, len(keys), BATCH))
    return np.concatenate([pool(part, POOLING) for part in parts])


def pool_far(backbone: Weights, workspace: Workspace) -> Floats:
    """Pooled features (n, 1024) of the images of `far_images`."""
    images = draw_far_images()
    if backbone:
        return _compute(backbone, workspace, len(images), images.__getitem__)
    engine = features_engine(workspace)
    facts = [engine.name, engine.precision, SHA256, POOLING, sha256_hex(images.tobytes())]
    file = workspace.far_features / f"{fingerprint(facts)}.safetensors"
    kept = _read(file)
    if kept is None:
        kept = _compute({}, workspace, len(images), images.__getitem__)
        write_bytes(file, save({"pooled": kept}))
    return kept


def _compute(backbone: Weights, workspace: Workspace, number: int, read: Callable[[slice], Pixels]) -> Floats:
    weights = {**load_weights(), **backbone}
    extract = build_extractor(features_engine(workspace), weights, (BOTTLENECK,), BATCH, dtype=np.float32)
    parts = (extract(read(slice(start, start + BATCH)))[0] for start in range(0, number, BATCH))
    pooled = np.concatenate([pool(part, POOLING) for part in parts])
    if not np.isfinite(pooled).all():
        raise IntegrityError("Outputs of the trained backbone are NaN or infinite: its training diverged.")
    return pooled


def _read(file: Path) -> Floats | None:
    try:
        found: Floats = load(file.read_bytes())["pooled"]
    except (OSError, SafetensorError, KeyError):
        return None  # missing or damaged: the features are computed again
    return found
