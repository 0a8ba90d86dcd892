"""Steps of plain gradient descent, whose change of the weights is the gradient; Adam would hide its size.

python -m tests.tasks.vgg.training.one_step FILE.npz writes the gradient of one batch on one device and on two, in one
part and in three.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.images.shards import Array
from tasks.vgg.head import new_head
from tasks.vgg.strategies.base import LearningRateSetting, Phase
from tests.tasks.vgg.small_weights import tiny_weights

CLASSES, SHAPE = 3, (14, 14, 6)
PHASE = Phase("block5", ("block5",), 1, 8, {"head": 1.0, "block5": 1.0}, LearningRateSetting("none", 1.0))
DEVICES, PARTS = (1, 2), (1, 3)


@dataclass(frozen=True)
class Numbers:
    """Random inputs, read by their numbers, also as views; keeps which were asked for."""

    data: Array
    asked: list[str] = field(default_factory=list)
    shape = SHAPE
    dtype = np.dtype(np.float32)

    def read(self, keys: Sequence[str], /) -> Array:
        self.asked.extend(keys)
        return self.data[[int(key.split(".")[0]) for key in keys]]


def make_steps(phase: Phase, parts: int = 1, devices: Any = None) -> Any:
    """The steps of a phase of a miniature network that starts from block4_pool."""
    import tensorflow as tf

    from tasks.vgg.training.network import Classifier, build_network
    from tasks.vgg.training.steps import Steps

    devices = devices or tf.distribute.get_strategy()
    head = new_head("flatten", (7, 7, 8), 4, CLASSES, 0)
    with devices.scope():
        network = build_network(Classifier(tiny_weights(), head), "block4_pool", SHAPE, phase.unfrozen, "float32")
    return Steps(network, phase, devices, parts)


def gradients(batches: Sequence[Any], parts: int = 1, devices: Any = None) -> list[dict[str, Any]]:
    """For each batch, by name: how far a step at the learning rate 1 moves each weight of a miniature network."""
    import keras

    steps = make_steps(PHASE, parts, devices)
    network = steps.network
    with devices.scope() if devices else contextlib.nullcontext():
        steps.optimizer = keras.optimizers.SGD(1.0)
        steps.optimizer.build(list(network.variables.values()))
    begin, found = network.tensors(), []
    for batch in batches:
        steps.train(batch, 1.0)
        found.append({name: begin[name] - value for name, value in network.tensors().items()})
        for name, variable in network.variables.items():
            variable.assign(begin[name])
    return found


def draw(size: int) -> tuple[Array, Array]:
    """Inputs (size, 14, 14, 6), and class indices of which one in twelve is 1 and as many are 2."""
    rng = np.random.default_rng(0)
    labels = np.zeros(size, np.int32)
    labels[:: CLASSES * 4], labels[1 :: CLASSES * 4] = 1, 2
    return rng.random((size, *SHAPE), np.float32), labels


def main() -> None:
    import tensorflow as tf

    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * max(DEVICES))
    from tasks.vgg.training.steps import choose_devices

    inputs, labels = draw(7)  # not a multiple of the devices
    batch = (inputs, labels, np.linspace(0.1, 0.2, 7, dtype=np.float32))
    strategies = dict(zip(DEVICES, (tf.distribute.get_strategy(), choose_devices()), strict=True))
    found = {
        f"{devices}/{parts}/{name}": value
        for devices, parts in itertools.product(DEVICES, PARTS)
        for name, value in gradients([batch], parts, strategies[devices])[0].items()
    }
    np.savez(sys.argv[1], **found)


if __name__ == "__main__":
    main()
