"""The tf.data pipeline that everything which computes with TensorFlow reads: shards in, batches out.

A position in training is (epoch, step) and nothing else: the order of an epoch is a permutation of all examples drawn
from (seed, epoch), so the shuffle is perfect whatever the memory, and any step can be resumed without reading what
came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tasks.pictures.shards import Array, Shards

if TYPE_CHECKING:
    import tensorflow as tf

Indices = npt.NDArray[np.int64]


def epoch_order(size: int, seed: int | None, epoch: int) -> Indices:
    """The examples' order (size,) in an epoch: shuffled from (seed, epoch), or as they are where seed is None."""
    if seed is None:
        return np.arange(size)
    return np.random.default_rng([seed, epoch]).permutation(size)


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Batches in an epoch, the last partial one included."""
    return -(-size // batch_size)


def batches(
    shards: Shards,
    keys: Sequence[str],
    labels: Sequence[int],
    batch_size: int,
    *,
    epochs: int = 1,
    seed: int | None = None,
    start_epoch: int = 0,
    start_step: int = 0,
) -> tf.data.Dataset:
    """A dataset of (arrays (b, ...), labels (b,) int32), b = batch_size but for the last of an epoch. Nothing is
    dropped.

    Args:
        shards: where the arrays are (pictures uint8, or features float16).
        keys: the examples, as many as `labels`.
        labels: class indices.
        batch_size: examples a batch.
        epochs: the epoch after the last one, counted from 0.
        seed: shuffles every epoch anew; None keeps the order (evaluation).
        start_epoch: where to begin, with `start_step`; batches before it are not read.
        start_step: the first step of `start_epoch`.
    """
    import tensorflow as tf

    def read() -> Iterator[tuple[Array, Array]]:
        targets = np.asarray(labels, dtype=np.int32)
        for epoch in range(start_epoch, epochs):
            order = epoch_order(len(keys), seed, epoch)
            first = start_step if epoch == start_epoch else 0
            for step in range(first, steps_per_epoch(len(keys), batch_size)):
                chosen = order[step * batch_size : (step + 1) * batch_size]
                yield shards.read([keys[index] for index in chosen]), targets[chosen]

    signature = (
        tf.TensorSpec((None, *shards.shape), tf.as_dtype(shards.dtype)),
        tf.TensorSpec((None,), tf.int32),
    )
    total = max(0, (epochs - start_epoch) * steps_per_epoch(len(keys), batch_size) - start_step)
    dataset = tf.data.Dataset.from_generator(read, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(total)).prefetch(2)
