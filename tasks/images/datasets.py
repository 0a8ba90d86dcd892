"""The tf.data pipeline for everything that computes with TensorFlow: shards in, batches out.

A position in training is just (epoch, step). The order of an epoch is a permutation of all examples drawn from (seed,
epoch). So the shuffle is perfect with any amount of memory, and training can resume at any step without reading the
earlier batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from tasks.images.shards import Array

if TYPE_CHECKING:
    import tensorflow as tf

_AHEAD = 2
"""Batches that wait for training."""

Indices = npt.NDArray[np.int64]


def epoch_order(size: int, seed: int | None, epoch: int) -> Indices:
    """The order of the examples (size,) in an epoch, shuffled from (seed, epoch); not shuffled if seed is None."""
    if seed is None:
        return np.arange(size)
    return np.random.default_rng([seed, epoch]).permutation(size)


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Batches in an epoch; none has more than `batch_size` examples."""
    return -(-size // batch_size)


class Reader(Protocol):
    """The source of batches: shards, or images that become views when they are read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(self, keys: Sequence[str], /) -> Array: ...


def batches(
    reader: Reader,
    names: Callable[[int], Sequence[str]],
    labels: npt.NDArray[np.int32],
    weights: npt.NDArray[np.float32],
    batch_size: int,
    *,
    seed: int | None = None,
    epoch: int = 0,
    start_step: int = 0,
    epochs: int = 1,
) -> tf.data.Dataset:
    """Epochs as a dataset of (arrays (b, ...), labels (b,) int32, weights (b,) float32), b = batch_size.

    No example is dropped. The batches have the same number of examples, or one less: a last batch of one example would
    be a step as large as the others. What is missing to `batch_size` is filled with zeros of weight 0, because
    TensorFlow would trace a batch of another size again. A dataset takes 50 ms to begin and to end, so training has one
    for all its epochs.

    Args:
        reader: reads the arrays (images uint8, or features float16).
        names: number of an epoch -> the reader's names of the examples, or of views of them.
        labels: class indices (n,).
        weights: weights of the examples in the loss (n,), above 0.
        batch_size: most examples in a batch.
        seed: seed of the shuffle, which differs between epochs; None keeps the order (evaluation).
        epoch: the first one, counted from 0.
        start_step: its first step; batches before it are not read.
        epochs: how many.
    """
    import tensorflow as tf

    size = len(labels)
    count = steps_per_epoch(size, batch_size)
    kinds = (tf.as_dtype(reader.dtype), tf.int32, tf.float32)

    @lru_cache(maxsize=2)
    def plan(number: int) -> tuple[Indices, Sequence[str]]:
        return epoch_order(size, seed, number), names(number)

    def read(position: int) -> tuple[Array, ...]:
        number, step = divmod(int(position), count)
        order, named = plan(number)
        chosen = order[step * size // count : (step + 1) * size // count]
        arrays = reader.read([named[index] for index in chosen])
        return tuple(_filled(part, batch_size) for part in (arrays, labels[chosen], weights[chosen]))

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def load(position: Any) -> Any:
        parts = tf.numpy_function(read, [position], kinds)
        for part, shape in zip(parts, (reader.shape, (), ()), strict=True):
            part.set_shape((batch_size, *shape))
        return parts

    positions = tf.data.Dataset.range(epoch * count + start_step, (epoch + epochs) * count)
    return positions.map(load).prefetch(_AHEAD)


def _filled(part: Array, size: int) -> Array:
    missing = size - len(part)
    return np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)]) if missing else part
