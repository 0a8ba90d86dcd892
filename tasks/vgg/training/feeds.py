"""The examples of a split as gradient descent reads them: from stored features, or from images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.images.augmentation import PLAIN, AugmentedImages, draw_views, view_id
from tasks.images.datasets import Reader, batches, steps_per_epoch
from tasks.images.shards import Array, Shards, open_shards
from tasks.settings import Augmentation
from tasks.vgg.boundaries import folder_of

Batch = tuple[Any, Array, Array]
"""Inputs (b, ...) as TensorFlow's tensor, class indices (b,) int32, weights (b,) float32 in the sum that is the loss;
weight 0 is padding."""


@dataclass(frozen=True)
class Feed:
    """A split.

    Attributes:
        reader: reads the inputs of examples and views.
        keys: of the examples.
        labels: class indices (n,).
        weights: of the examples relative to each other (n,), above 0.
        augmented: only so many of the first examples have augmented versions; None: all have.
    """

    reader: Reader
    keys: tuple[str, ...]
    labels: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    augmented: int | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def steps(self, size: int) -> int:
        """Batches an epoch."""
        return steps_per_epoch(len(self), size)

    def shuffled(
        self, size: int, views: int, seed: int, epoch: int, start_step: int, epochs: int = 1
    ) -> Iterator[Batch]:
        """Epochs of training; the order and the views depend only on the seed and the epoch.

        The weights are divided by those of a mean batch, not by the batch's own: so the mean gradient of the steps is
        the gradient of the whole split, whatever is in a batch.
        """
        weights = self.weights * np.float32(self.steps(size) / self.weights.sum(dtype=np.float64))
        where = {"seed": seed, "epoch": epoch, "start_step": start_step, "epochs": epochs}
        yield from _arrays(batches(self.reader, self._draw(views, seed), self.labels, weights, size, **where))

    def in_order(self, size: int) -> Iterator[Batch]:
        """All examples without augmentation, for evaluation; again and again."""
        ones = np.ones_like(self.weights)
        yield from _arrays(batches(self.reader, lambda _: self.keys, self.labels, ones, size).repeat())

    def _draw(self, views: int, seed: int) -> Callable[[int], list[str]]:
        """Number of an epoch -> the view of each example."""

        def draw(epoch: int) -> list[str]:
            drawn = draw_views(len(self), views, seed, epoch)
            if self.augmented is not None:
                drawn[self.augmented :] = PLAIN
            return [view_id(key, int(number)) for key, number in zip(self.keys, drawn, strict=True)]

        return draw


class KeptFeatures:
    """A boundary's features, read by view id."""

    def __init__(self, plain: Shards, views: Shards) -> None:
        self._plain, self._views = plain, views
        self.shape: tuple[int, ...] = plain.shape
        self.dtype: np.dtype[Any] = plain.dtype

    def read(self, names: Sequence[str]) -> Array:
        """The features (len(names), h, w, c) float16."""
        found = np.empty((len(names), *self.shape), self.dtype)
        augmented = np.array(["." in name for name in names], dtype=bool)
        for shards, mask in ((self._plain, ~augmented), (self._views, augmented)):
            if mask.any():
                found[mask] = shards.read([name for name, chosen in zip(names, mask, strict=True) if chosen])
        return found


def open_reader(strategy: str, boundary: str | None, features: Path, images: Path, views: Augmentation) -> Reader:
    """The input of training: stored features of a boundary, or images (boundary None)."""
    if boundary is None:
        return AugmentedImages(open_shards(images), views)
    plain, augmented = (open_shards(features / folder_of(strategy, boundary, views=one)) for one in (False, True))
    return KeptFeatures(plain, augmented)


def _arrays(dataset: Any) -> Iterator[Batch]:
    for inputs, labels, weights in dataset:
        yield inputs, labels.numpy(), weights.numpy()
