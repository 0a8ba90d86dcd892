"""The head: what turns the backbone's output into probabilities, as plain arrays.

A head pools, optionally scales to unit length, and applies dense layers. It runs in NumPy (training-side predictions
need no TensorFlow) and builds the same Keras layers for training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import keras

Floats = npt.NDArray[np.float32]
Pooling = Literal["flatten", "average_maximum", "bilinear"]
Activation = Literal["relu", "softmax"]

SMALLEST_NORM = 1e-6
_SMALLEST_PRODUCT = 1e-6
"""Channels that are never active together have the product 0, where the root's infinite slope would cause NaN."""


@dataclass(frozen=True)
class Dense:
    """A dense layer: kernel (inputs, units), bias (units,), activation."""

    kernel: Floats
    bias: Floats
    activation: Activation


@dataclass(frozen=True)
class Head:
    """Pooling and dense layers; the last one is a softmax over the classes.

    Attributes:
        pooling: `flatten` ((n, h, w, c) -> (n, h*w*c)), or `average_maximum`: average-pooled and maximum-pooled
            channels, each scaled to unit length, joined (n, 2c); or `bilinear`: square roots of the mean products of
            all pairs of channels, scaled to unit length (n, c*c) (T.-Y. Lin et al., Bilinear CNN Models, 2015).
        layers: applied in order.
    """

    pooling: Pooling
    layers: tuple[Dense, ...]

    def probabilities(self, features: npt.NDArray[Any]) -> Floats:
        """Features (n, h, w, c), any float type -> probabilities (n, classes), float32."""
        values = pool(features, self.pooling)
        for layer in self.layers:
            values = values @ layer.kernel + layer.bias
            values = np.maximum(values, 0) if layer.activation == "relu" else softmax(values)
        return values

    def apply_keras(self, features: keras.KerasTensor, logits: bool = False) -> keras.KerasTensor:
        """The same head as Keras layers with these weights, applied to a backbone's output (n, h, w, c).

        Args:
            features: the output.
            logits: leave the softmax out; training computes the cross-entropy from logits.
        """
        import keras

        values = apply_pooling(features, self.pooling)
        for number, layer in enumerate(self.layers, 1):
            activation = None if logits and layer.activation == "softmax" else layer.activation
            dense = keras.layers.Dense(len(layer.bias), activation=activation, dtype="float32", name=f"head_{number}")
            values = dense(values)
            dense.set_weights([layer.kernel, layer.bias])
        return values

    def tensors(self) -> dict[str, Floats]:
        """The weights by name, for a safetensors file."""
        named: dict[str, Floats] = {}
        for number, layer in enumerate(self.layers, 1):
            named[f"head_{number}/kernel"] = layer.kernel
            named[f"head_{number}/bias"] = layer.bias
        return named

    def outline(self) -> dict[str, Any]:
        """What `restore` needs beside the tensors, as JSON."""
        return {"pooling": self.pooling, "activations": [layer.activation for layer in self.layers]}


def restore(outline: dict[str, Any], tensors: dict[str, Floats]) -> Head:
    """The head that `Head.outline` and `Head.tensors` describe."""
    layers = tuple(
        Dense(tensors[f"head_{number}/kernel"], tensors[f"head_{number}/bias"], activation)
        for number, activation in enumerate(outline["activations"], 1)
    )
    return Head(outline["pooling"], layers)


def new_head(pooling: Pooling, shape: Sequence[int], hidden_units: int | None, classes: int, seed: int) -> Head:
    """An untrained head: with a hidden layer (Glorot uniform, Keras' default), or one layer of zeros.

    Args:
        pooling: see `Head`.
        shape: of one example's features (h, w, c).
        hidden_units: of a relu layer before the last one; None: no such layer.
        classes: how many.
        seed: of the random kernels.
    """
    inputs = math.prod(shape) if pooling == "flatten" else 2 * shape[-1]
    if hidden_units is None:
        return Head(
            pooling, (Dense(np.zeros((inputs, classes), np.float32), np.zeros(classes, np.float32), "softmax"),)
        )
    rng = np.random.default_rng(seed)
    layers = []
    for rows, units, activation in ((inputs, hidden_units, "relu"), (hidden_units, classes, "softmax")):
        limit = math.sqrt(6 / (rows + units))
        kernel = rng.uniform(-limit, limit, (rows, units)).astype(np.float32)
        layers.append(Dense(kernel, np.zeros(units, np.float32), cast("Activation", activation)))
    return Head(pooling, tuple(layers))


def pool(features: npt.NDArray[Any], pooling: Pooling) -> Floats:
    """Features (n, h, w, c) -> the dense layers' input, float32; see `Head.pooling`."""
    values = features.astype(np.float32)
    if pooling == "flatten":
        return values.reshape(len(values), -1)
    if pooling == "bilinear":
        places = values.reshape(len(values), -1, values.shape[-1])
        products = places.transpose(0, 2, 1) @ places
        products /= np.float32(places.shape[1])  # in its place, as all that follows: new memory takes longer
        np.sqrt(np.maximum(products, 0, out=products), out=products)
        return _unit_length(products.reshape(len(values), -1))
    average, maximum = values.mean(axis=(1, 2)), values.max(axis=(1, 2))
    return np.concatenate([_unit_length(average), _unit_length(maximum)], axis=1)


def pool_products(features: npt.NDArray[Any], channels: slice) -> Floats:
    """Some columns of `bilinear` pooling: products of these channels with themselves and with all that follow.

    Args:
        features: (n, h, w, c), not negative.
        channels: w of the c channels.

    Returns:
        (n, w, rest), float32: `pool(features, "bilinear").reshape(n, c, c)[:, channels, channels.start :]`.
    """
    values = features.astype(np.float32)
    places = values.reshape(len(values), -1, values.shape[-1])
    products = places[:, :, channels].transpose(0, 2, 1) @ places[:, :, channels.start :]
    products /= np.float32(places.shape[1])
    np.sqrt(np.maximum(products, 0, out=products), out=products)
    squared = np.square(places.sum(axis=2)).mean(axis=1)  # the sum of the squares of all roots
    with np.errstate(invalid="ignore"):
        products /= np.maximum(np.sqrt(squared), SMALLEST_NORM)[:, None, None]
    return products


def apply_pooling(features: keras.KerasTensor, pooling: Pooling) -> keras.KerasTensor:
    """`pool` as Keras layers."""
    import keras

    if pooling == "flatten":
        return keras.layers.Flatten(name="flatten")(features)
    if pooling == "bilinear":
        _, height, width, channels = features.shape
        places = keras.layers.Reshape((height * width, channels), dtype="float32", name="places")(features)
        products = keras.layers.Dot(axes=1, dtype="float32", name="products")([places, places])
        means = keras.ops.relu(products / float(height * width))
        roots = means / keras.ops.sqrt(means + _SMALLEST_PRODUCT)
        flat = keras.layers.Flatten(dtype="float32", name="flatten")(roots)
        return keras.layers.UnitNormalization(name="pooled", dtype="float32")(flat)
    average = keras.layers.GlobalAveragePooling2D(name="average", dtype="float32")(features)
    maximum = keras.layers.GlobalMaxPooling2D(name="maximum", dtype="float32")(features)
    joined = [
        keras.layers.UnitNormalization(name="average_unit", dtype="float32")(average),
        keras.layers.UnitNormalization(name="maximum_unit", dtype="float32")(maximum),
    ]
    return keras.layers.Concatenate(name="pooled", dtype="float32")(joined)


def softmax(values: Floats) -> Floats:
    """Along the last axis, without overflow."""
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    result: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def _unit_length(values: Floats) -> Floats:
    """Scales the values themselves."""
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # infinity becomes NaN, which training refuses
        values /= np.maximum(norm, SMALLEST_NORM)
    return values
