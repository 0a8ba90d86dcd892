"""Why a head prefers one class to another: the share of each place of the image in the difference of their logits.

For a linear layer on average-pooled features, this is the class activation map (B. Zhou et al., Learning Deep Features
for Discriminative Localization, 2016). Here the shares add up to the difference exactly, for every head: pooling and
layers are linear in the features once the norms, the places of the maxima and the active units of this image are
fixed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.vgg.head import SMALLEST_NORM, Dense, Floats, Head, pool

Doubles = npt.NDArray[np.float64]


class Explanation(NamedTuple):
    """What speaks for a class and against another one.

    Attributes:
        places: (h, w), of each place of the features; above 0 where it speaks for the class.
        constant: what the biases say, whatever the image shows.
    """

    places: Doubles
    constant: float


def explain(head: Head, features: npt.NDArray[Any], chosen: int, other: int) -> Explanation:
    """Split the logit of the class `chosen` minus that of `other` into places: their sum + constant = the difference.

    Args:
        head: of the classifier.
        features: (h, w, c) of one image, not negative.
        chosen: index of the class.
        other: index of the class that it is compared with.
    """
    values, pooled = features.astype(np.float64), pool(features[np.newaxis], head.pooling)[0]
    weights, constant = _linear(head.layers, pooled, chosen, other)
    if head.pooling == "flatten":
        return Explanation((values * weights.reshape(values.shape)).sum(axis=-1), constant)
    if head.pooling == "bilinear":
        return Explanation(_bilinear(values, weights, pooled), constant)
    return Explanation(_average_maximum(values, weights), constant)


def _linear(layers: tuple[Dense, ...], pooled: Floats, chosen: int, other: int) -> tuple[Doubles, float]:
    """The weights of the pooled features and the constant, given which hidden units are active."""
    active, values = [], pooled.astype(np.float64) if len(layers) > 1 else pooled
    for layer in layers[:-1]:
        values = np.maximum(values @ layer.kernel + layer.bias, 0)
        active.append(values > 0)
    last = layers[-1]
    weights = last.kernel[:, chosen].astype(np.float64) - last.kernel[:, other]
    constant = float(last.bias[chosen]) - float(last.bias[other])
    for layer, mask in zip(reversed(layers[:-1]), reversed(active), strict=True):
        weights = weights * mask
        constant += float(layer.bias @ weights)
        weights = layer.kernel @ weights
    return weights, constant


def _average_maximum(features: Doubles, weights: Doubles) -> Doubles:
    of_average, of_maximum = np.split(weights, 2)
    average, maximum = features.mean(axis=(0, 1)), features.max(axis=(0, 1))
    places = features @ (of_average / _norm(average)) / (features.shape[0] * features.shape[1])
    highest = features == maximum
    shares = highest / highest.sum(axis=(0, 1))  # equal maxima share
    return np.asarray(places + shares @ (of_maximum * maximum / _norm(maximum)))


def _bilinear(features: Doubles, weights: Doubles, pooled: Floats) -> Doubles:
    """A place's share in a root is its share in the product below the root.

    With pooled = root / length, a place's part of (weight x pooled) is weight x (its part of the product) / (pooled x
    length squared), and the squared length is the sum of all products.
    """
    places = features.reshape(-1, features.shape[-1])
    squared = max(float(np.square(places.sum(axis=1)).sum()), SMALLEST_NORM**2)  # of all places together
    each = np.divide(weights, pooled, out=np.zeros(len(weights)), where=pooled > 0).reshape(places.shape[1], -1)
    return np.asarray(((places @ each) * places).sum(axis=1).reshape(features.shape[:2]) / squared)


def _norm(values: Doubles) -> float:
    return max(float(np.linalg.norm(values)), SMALLEST_NORM)
