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
from tasks.vgg.engines import Engine, Extract, Pixels, build_extractor
from tasks.vgg.head import Floats, Head
from tasks.vgg.weights import Weights, load_weights
from tasks.workspace import Workspace

BATCH = 32

Read = Callable[[Sequence[str], int], npt.NDArray[Any]]
"""Keys, up to `BATCH`, and which view of the examples -> the backbone's outputs (n, h, w, c)."""


def features_engine(workspace: Workspace) -> Engine:
    """The engine that computed the features."""
    recipe = read_json(workspace.features / BOTTLENECK / RECIPE)
    return Engine(recipe["engine"], recipe["precision"])


def training_engine(workspace: Workspace) -> Engine:
    """The engine that computed the features of training images; `features_engine` if that was int8.

    The ranges of int8 were measured on the published weights, so they don't fit a backbone that was trained further.
    """
    recipe = read_json(workspace.features / BOTTLENECK / RECIPE)
    if recipe.get("training_precision", "int8") == "int8":
        return features_engine(workspace)
    return Engine(recipe["training_engine"], recipe["training_precision"])


def predict_probabilities(
    head: Head,
    backbone: Weights,
    test_time_augmentation: bool,
    workspace: Workspace,
    keys: Sequence[str],
    see: Callable[[Sequence[str], Floats], object] | None = None,
) -> Iterator[Floats]:
    """Probabilities (n, classes) float32 for the examples, batch by batch, in the order of the keys.

    Args:
        head: of the classifier.
        backbone: its tensors that are not the published ones; empty: it stayed frozen.
        test_time_augmentation: the mean over the image and its mirror image.
        workspace: with images and features.
        keys: of the examples.
        see: is called with the keys of each batch and the backbone's outputs for the images, not for mirror images.

    Raises:
        IntegrityError: an example is in no shard, or the backbone's outputs are NaN or infinite.
    """
    read = features_reader(backbone, workspace)
    for start in range(0, len(keys), BATCH):
        chosen = keys[start : start + BATCH]
        outputs = [read(chosen, view) for view in views_of(test_time_augmentation)]
        if see:
            see(chosen, outputs[0])
        predicted = [head.probabilities(one) for one in outputs]
        yield np.mean(predicted, axis=0, dtype=np.float32)


class Latest:
    """The network that was built last; it is used again, because stages ask for the champion's several times."""

    def __init__(self) -> None:
        self._made: tuple[Weights, Engine, Extract] | None = None

    def network(self, backbone: Weights, engine: Engine, weights: Weights | None = None) -> Extract:
        """Up to `BATCH` images (n, 224, 224, 3) uint8 RGB -> the bottleneck features (n, h, w, c), float32.

        Args:
            backbone: its tensors that are not the published ones.
            engine: that computes.
            weights: of the whole backbone; None: they are loaded.
        """
        if self._made is None or self._made[0] is not backbone or self._made[1] != engine:
            self._made = None  # two of them need twice the memory
            weights = weights or {**load_weights(), **backbone}
            extract = build_extractor(engine, weights, (BOTTLENECK,), BATCH, dtype=np.float32)
            self._made = backbone, engine, extract
        return self._made[2]


latest = Latest()


def views_of(test_time_augmentation: bool) -> tuple[int, ...]:
    """The versions of an image over which a prediction is averaged."""
    return (PLAIN, MIRRORED) if test_time_augmentation else (PLAIN,)


def pixels_predictor(
    head: Head, backbone: Weights, test_time_augmentation: bool, workspace: Workspace
) -> Callable[[Pixels], Floats]:
    """The classifier as a function of images that are in no shard: (n, 224, 224, 3) uint8 RGB, n up to `BATCH`.

    It returns probabilities (n, classes) float32, or raises IntegrityError as `predict_probabilities` does.
    """
    compute = backbone_network(backbone, workspace)

    def predict(pixels: Pixels) -> Floats:
        predicted = [head.probabilities(compute(pixels, view)) for view in views_of(test_time_augmentation)]
        mean: Floats = np.mean(predicted, axis=0, dtype=np.float32)
        return mean

    return predict


def features_reader(backbone: Weights, workspace: Workspace, engine: Engine | None = None) -> Read:
    """Reads the outputs of a classifier's backbone; those of one that was trained further are computed.

    Args:
        backbone: its tensors that are not the published ones; empty: it stayed frozen.
        workspace: with images and features.
        engine: that computes; None: `features_engine`.
    """
    if not backbone:
        shards = open_shards(workspace.features / BOTTLENECK)
        return lambda keys, view: shards.read([view_id(key, view) for key in keys])
    images, compute = open_shards(workspace.shards), backbone_network(backbone, workspace, engine)
    return lambda keys, view: compute(images.read(keys), view)


def backbone_network(
    backbone: Weights, workspace: Workspace, engine: Engine | None = None
) -> Callable[[Pixels, int], Floats]:
    """The backbone as a function of up to `BATCH` images, and which view of them; by `features_engine` if None."""
    extract = latest.network(backbone, engine or features_engine(workspace))

    def compute(pixels: Pixels, view: int) -> Floats:
        (features,) = extract(pixels if view == PLAIN else np.ascontiguousarray(pixels[:, :, ::-1]))
        if not np.isfinite(features).all():
            raise IntegrityError("Outputs of the trained backbone are NaN or infinite: its training diverged.")
        return features

    return compute
