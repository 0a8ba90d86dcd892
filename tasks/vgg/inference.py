"""Predictions of a classifier for prepared images, always by the backbone that is exported, in its precision.

The outputs of a frozen backbone are stored as bottleneck features. A backbone that was trained further computes its
outputs from the images, with the engine that computes features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import IntegrityError
from tasks.files import read_json
from tasks.images.augmentation import MIRRORED, PLAIN, view_id
from tasks.images.shards import open_shards
from tasks.vgg.boundaries import BOTTLENECK, RECIPE
from tasks.vgg.engines import Engine, Pixels, build_extractor
from tasks.vgg.head import Floats, Head
from tasks.vgg.weights import Weights, load_weights
from tasks.workspace import Workspace

BATCH = 32

_Read = Callable[[Sequence[str], int], npt.NDArray[Any]]
"""Keys, and which view of the examples -> the backbone's outputs (n, h, w, c)."""


def features_engine(workspace: Workspace) -> Engine:
    """The engine that computed the features."""
    recipe = read_json(workspace.features / BOTTLENECK / RECIPE)
    return Engine(recipe["engine"], recipe["precision"])


def predict_probabilities(
    head: Head, backbone: Weights, test_time_augmentation: bool, workspace: Workspace, keys: Sequence[str]
) -> Iterator[Floats]:
    """Probabilities (n, classes) float32 for the examples, batch by batch, in the order of the keys.

    Args:
        head: of the classifier.
        backbone: its tensors that are not the published ones; empty: it stayed frozen.
        test_time_augmentation: the mean over the image and its mirror image.
        workspace: with images and features.
        keys: of the examples.

    Raises:
        IntegrityError: an example is in no shard, or the backbone's outputs are NaN or infinite.
    """
    views = (PLAIN, MIRRORED) if test_time_augmentation else (PLAIN,)
    read = _tuned(backbone, workspace) if backbone else _kept(workspace)
    for start in range(0, len(keys), BATCH):
        chosen = keys[start : start + BATCH]
        predicted = [head.probabilities(read(chosen, view)) for view in views]
        yield np.mean(predicted, axis=0, dtype=np.float32)


def _kept(workspace: Workspace) -> _Read:
    shards = open_shards(workspace.features / BOTTLENECK)

    def read(keys: Sequence[str], view: int) -> npt.NDArray[Any]:
        return shards.read([view_id(key, view) for key in keys])

    return read


def _tuned(backbone: Weights, workspace: Workspace) -> _Read:
    images = open_shards(workspace.shards)
    weights = {**load_weights(), **backbone}
    extract = build_extractor(features_engine(workspace), weights, (BOTTLENECK,), BATCH, dtype=np.float32)

    def read(keys: Sequence[str], view: int) -> Floats:
        pixels: Pixels = images.read(keys)
        (features,) = extract(pixels if view == PLAIN else np.ascontiguousarray(pixels[:, :, ::-1]))
        if not np.isfinite(features).all():
            raise IntegrityError("Outputs of the trained backbone are NaN or infinite: its training diverged.")
        return features

    return read
