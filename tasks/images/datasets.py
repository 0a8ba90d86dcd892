"""The tf.data pipeline for everything that computes with TensorFlow: shards in, batches out.

A position in training is just (epoch, step). The order of an epoch is a permutation of all examples drawn from (seed,
epoch). So the shuffle is perfect with any amount of memory, and training can resume at any step without reading the
earlier batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from tasks.images.shards import Array

if TYPE_CHECKING:
    import tensorflow as tf

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
    names: Sequence[str],
    labels: npt.NDArray[np.int32],
    weights: npt.NDArray[np.float32],
    batch_size: int,
    *,
    seed: int | None = None,
    epoch: int = 0,
    start_step: int = 0,
) -> tf.data.Dataset:
    """One epoch as a dataset of (arrays (b, ...), labels (b,) int32, weights (b,) float32), b = batch_size.

    No example is dropped. The batches have the same number of examples, or one less: a last batch of one example would
    be a step as large as the others. What is missing to `batch_size` is filled with zeros of weight 0, because
    TensorFlow would trace a batch of another size again.

    Args:
        reader: reads the arrays (images uint8, or features float16).
        names: the reader's names of the examples, or of views of them.
        labels: class indices (n,).
        weights: weights of the examples in the loss (n,), above 0.
        batch_size: most examples in a batch.
        seed: seed of the shuffle, which differs between epochs; None keeps the order (evaluation).
        epoch: counted from 0.
        start_step: the first step; batches before it are not read.
    """
    import tensorflow as tf

    order = epoch_order(len(names), seed, epoch)
    count = steps_per_epoch(len(names), batch_size)
    steps = range(start_step, count)

    def read() -> Iterator[tuple[Array, ...]]:
        for step in steps:
            chosen = order[step * len(order) // count : (step + 1) * len(order) // count]
            arrays = reader.read([names[index] for index in chosen])
            yield tuple(_filled(part, batch_size) for part in (arrays, labels[chosen], weights[chosen]))

    signature = (
        tf.TensorSpec((batch_size, *reader.shape), tf.as_dtype(reader.dtype)),
        tf.TensorSpec((batch_size,), tf.int32),
        tf.TensorSpec((batch_size,), tf.float32),
    )
    dataset = tf.data.Dataset.from_generator(read, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(steps))).prefetch(2)


def _filled(part: Array, size: int) -> Array:
    missing = size - len(part)
    return np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)]) if missing else part
