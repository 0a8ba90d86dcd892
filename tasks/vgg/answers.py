"""What a classifier answers for prepared images: always through the backbone that is exported, in its precision.

A frozen backbone has answered already: its bottleneck features are kept. One that was trained on sees the images
themselves, by the engine that computes features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.errors import IntegrityError
from tasks.files import read_json
from tasks.images.shards import open_shards
from tasks.images.views import MIRRORED, PLAIN, view_id
from tasks.vgg.boundaries import BOTTLENECK
from tasks.vgg.engines import Engine, Halves, Pixels, build_extractor
from tasks.vgg.head import Floats, Head
from tasks.vgg.weights import Weights, load_weights

BATCH = 32


@dataclass(frozen=True)
class Sources:
    """Where images and features are.

    Attributes:
        images: the folder of prepared shards.
        features: the folder of the stage `features`.
    """

    images: Path
    features: Path

    def engine(self) -> Engine:
        """What computed the features."""
        recipe = read_json(self.features / BOTTLENECK / "recipe.json")
        return Engine(recipe["engine"], recipe["precision"])


def answer(
    head: Head, backbone: Weights, flip_averaging: bool, sources: Sources, keys: Sequence[str]
) -> Iterator[Floats]:
    """Probabilities (n, classes) float32 for the examples, batch by batch, in the order of the keys.

    Args:
        head: of the classifier.
        backbone: its tensors that are not the published ones; empty: it stayed frozen.
        flip_averaging: the mean over the image and its mirror image.
        sources: of images and features.
        keys: of the examples.

    Raises:
        IntegrityError: an example is in no shard.
    """
    views = (PLAIN, MIRRORED) if flip_averaging else (PLAIN,)
    read = _tuned(backbone, sources) if backbone else _kept(sources)
    for start in range(0, len(keys), BATCH):
        chosen = keys[start : start + BATCH]
        answers = [head.probabilities(read(chosen, view)) for view in views]
        yield np.mean(answers, axis=0, dtype=np.float32)


def _kept(sources: Sources) -> Callable[[Sequence[str], int], Halves]:
    shards = open_shards(sources.features / BOTTLENECK)

    def read(keys: Sequence[str], view: int) -> Halves:
        return shards.read([view_id(key, view) for key in keys])

    return read


def _tuned(backbone: Weights, sources: Sources) -> Callable[[Sequence[str], int], Halves]:
    images = open_shards(sources.images)
    extract = build_extractor(sources.engine(), {**load_weights(), **backbone}, (BOTTLENECK,), BATCH)

    def read(keys: Sequence[str], view: int) -> Halves:
        pixels: Pixels = images.read(keys)
        (features,) = extract(pixels if view == PLAIN else np.ascontiguousarray(pixels[:, :, ::-1]))
        if not np.isfinite(features).all():
            raise IntegrityError("The trained backbone gives numbers that 16 bits can't hold; its training diverged.")
        return features

    return read
