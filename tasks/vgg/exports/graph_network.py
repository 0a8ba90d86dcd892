"""The classifier as TensorFlow operations, for the exported models: preprocessing, backbone, pooling, dense layers.

Training uses the same layers of Keras (`tasks.vgg.training.network`, `tasks.vgg.head`). Here Keras isn't needed, and
its import takes a quarter of the time of TensorFlow's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tasks.vgg.backbone import preprocess, tensorflow_blocks
from tasks.vgg.head import SMALLEST_NORM, Head, Pooling
from tasks.vgg.weights import Weights


class Network:
    """The function of images (n, 224, 224, 3), float32 RGB, 0 to 255, that gives probabilities (n, classes), float32.

    Args:
        head: the trained head.
        weights: of the backbone.
        test_time_augmentation: predict the mean over an image and its mirror image.

    Attributes:
        tensors: of the backbone, as variables, and of the head, as constants: a SavedModel keeps constants in its
            graph and variables in other files, so two heads on one backbone differ only in the graph.
    """

    def __init__(self, head: Head, weights: Weights, test_time_augmentation: bool = False) -> None:
        self._pooling: Pooling = head.pooling
        self._activations = [layer.activation for layer in head.layers]
        self._backbone = {name: tf.Variable(value, trainable=False) for name, value in weights.items()}
        self._head = {name: tf.constant(value) for name, value in head.tensors().items()}
        self._both_sides = test_time_augmentation
        self.tensors = [*self._backbone.values(), *self._head.values()]

    def __call__(self, pixels: Any) -> Any:
        probabilities = self._classify(pixels)
        if self._both_sides:
            probabilities = (probabilities + self._classify(pixels[:, :, ::-1])) / 2
        return probabilities

    def _classify(self, pixels: Any) -> Any:
        *_, (_, values) = tensorflow_blocks(preprocess(pixels), self._backbone)
        values = _POOL[self._pooling](values)
        for number, activation in enumerate(self._activations, 1):
            name = f"head_{number}"
            values = tf.nn.bias_add(tf.matmul(values, self._head[f"{name}/kernel"]), self._head[f"{name}/bias"])
            values = tf.nn.relu(values) if activation == "relu" else tf.nn.softmax(values)
        return values


def _flatten(features: Any) -> Any:
    _, height, width, channels = features.shape
    return tf.reshape(features, (-1, height * width * channels))


def _join_average_and_maximum(features: Any) -> Any:
    average, maximum = tf.reduce_mean(features, (1, 2)), tf.reduce_max(features, (1, 2))
    return tf.concat([_unit_length(average), _unit_length(maximum)], 1)


def _multiply_channels(features: Any) -> Any:
    _, height, width, channels = features.shape
    places = tf.reshape(features, (-1, height * width, channels))
    products = tf.matmul(places, places, transpose_a=True) / float(height * width)
    return _unit_length(tf.reshape(tf.sqrt(tf.nn.relu(products)), (-1, channels * channels)))


def _unit_length(values: Any) -> Any:
    norm = tf.sqrt(tf.reduce_sum(values * values, 1, keepdims=True))
    return values / tf.maximum(norm, SMALLEST_NORM)


_POOL: dict[Pooling, Callable[[Any], Any]] = {
    "flatten": _flatten,
    "average_maximum": _join_average_and_maximum,
    "bilinear": _multiply_channels,
}
"""`tasks.vgg.head.pool`."""
