"""One step of training, on one device or on several, and predictions for images.

Every batch has the same shape, because TensorFlow would trace and plan another one again: a smaller batch is filled up
with padding of weight 0. With several devices, a batch is cut into equal parts and gradients are summed before they are
clipped, so the step is the same as on a single device (TensorFlow, MirroredStrategy).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tasks.errors import TrainingError
from tasks.images.shards import Array
from tasks.settings import STRATEGIES
from tasks.vgg.head import Floats, softmax
from tasks.vgg.strategies.base import Phase
from tasks.vgg.training.feeds import Batch
from tasks.vgg.training.network import Network
from tasks.vgg.training.optimizer import make_optimizer


class Steps:
    """The compiled functions of a phase.

    Attributes:
        parts: how many pieces a batch is cut into, one after the other; doubles when memory runs out.
    """

    def __init__(self, network: Network, phase: Phase, strategy: Any, parts: int = 1) -> None:
        self.network, self.phase, self.parts = network, phase, parts
        self._strategy = strategy
        self._variables = list(network.variables.values())
        with strategy.scope():
            self.optimizer = make_optimizer(phase, network.variables)
        # not by XLA: its maximum pooling has no deterministic gradient on GPUs, and on CPUs its convolutions are slower
        compiled = tf.function(autograph=False)
        self._gradients, self._logits = compiled(self._replica_gradients), compiled(self._replica_logits)
        self._update = compiled(self._replica_update)

    def train(self, batch: Batch, learning_rate: float) -> tuple[float, float]:
        """One update; returns the batch's loss, nats, and how many of its images were predicted correctly.

        The loss is also NaN when a gradient is not finite: a relu can hide NaN from the loss.

        Args:
            batch: to train on.
            learning_rate: share of the phase's highest learning rates.

        Raises:
            TrainingError: not even single images fit into the memory.
        """
        inputs, labels, weights = batch
        while True:
            try:
                loss, correct, gradients = self._accumulate(inputs, labels, weights)
                break
            except tf.errors.ResourceExhaustedError:
                self.parts *= 2
                if len(inputs) // self.parts < self._strategy.num_replicas_in_sync:
                    raise TrainingError(
                        f"Not even {len(inputs) // self.parts * 2} images fit into the device's memory. "
                        f"Train fewer blocks, or by the cheapest strategy: make run STRATEGY={STRATEGIES[0]}"
                    ) from None
                print(
                    f"A batch of {len(inputs)} doesn't fit into the memory: it is cut into {self.parts} parts. "
                    "The steps stay the same, but take longer.",
                    file=sys.stderr,
                )
        self.optimizer.learning_rate = learning_rate
        norm = float(self._local(self._strategy.run(self._update, args=(gradients,)))[0])
        return loss if math.isfinite(norm) else math.nan, correct

    def predict(self, batches: Iterable[Batch]) -> Floats:
        """Probabilities (n, classes) of all images that are not padding."""
        found = []
        for inputs, _, weights in batches:
            logits = np.concatenate([self._run_logits(part) for part in self._cut(inputs)])
            found.append(softmax(logits[: int((weights > 0).sum())]))
        return np.concatenate(found)

    def _cut(self, array: Any) -> list[Any]:
        return [array] if self.parts == 1 else np.array_split(array, self.parts)

    def _accumulate(self, inputs: Any, labels: Array, weights: Array) -> tuple[float, float, Any]:
        total_loss, total_correct, gradients = 0.0, 0.0, None
        pieces = zip(*(self._cut(array) for array in (inputs, labels, weights)), strict=True)
        for piece in pieces:
            shared = [self._share(array) for array in piece]
            loss, correct, found = self._strategy.run(self._gradients, args=tuple(shared))
            total_loss += float(self._local(loss)[0])
            total_correct += float(self._local(correct)[0])
            gradients = found if gradients is None else self._strategy.run(_add, args=(gradients, found))
        return total_loss, total_correct, gradients

    def _replica_gradients(self, inputs: Any, labels: Any, weights: Any) -> tuple[Any, Any, list[Any]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for variable in self._variables:
                tape.watch(variable.value)
            logits = self.network.model(tf.cast(inputs, tf.float32), training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_sum(losses * weights)
            hits = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels) & (weights > 0)
            correct = tf.reduce_sum(tf.cast(hits, tf.float32))
        gradients = tape.gradient(loss, [variable.value for variable in self._variables])
        if self._strategy.num_replicas_in_sync > 1:
            context = tf.distribute.get_replica_context()
            loss, correct, *gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, [loss, correct, *gradients])
        return loss, correct, gradients

    def _replica_update(self, gradients: list[Any]) -> Any:
        norm = tf.linalg.global_norm(gradients)
        if self.phase.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.phase.clip_norm, norm)
        replicas = self._strategy.num_replicas_in_sync  # Keras sums over the devices
        self.optimizer.apply([gradient / replicas for gradient in gradients], self._variables)
        return norm

    def _replica_logits(self, inputs: Any) -> Any:
        return self.network.model(tf.cast(inputs, tf.float32), training=False)

    def _run_logits(self, inputs: Any) -> Floats:
        parts = self._local(self._strategy.run(self._logits, args=(self._share(inputs),)))
        return np.concatenate([part.numpy() for part in parts])[: len(inputs)]

    def _share(self, array: Any) -> Any:
        """The array's equal parts, one for each device."""
        count = self._strategy.num_replicas_in_sync
        if count == 1:
            return tf.convert_to_tensor(array)
        values = np.asarray(array)
        missing = -len(values) % count
        parts = np.split(np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)]), count)
        return self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    def _local(self, value: Any) -> tuple[Any, ...]:
        values: tuple[Any, ...] = self._strategy.experimental_local_results(value)
        return values


def _add(first: list[Any], second: list[Any]) -> list[Any]:
    return [one + other for one, other in zip(first, second, strict=True)]


def choose_devices() -> Any:
    """All GPUs together, the only one, or the CPU; memory is taken as it is needed.

    Logical CPU devices (tests) count as several devices.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    logical = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(logical) > 1:
        print(f"Training on {len(logical)} devices.", flush=True)
        return tf.distribute.MirroredStrategy([device.name for device in logical])
    return tf.distribute.get_strategy()
