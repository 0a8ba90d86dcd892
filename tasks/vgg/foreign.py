"""Scores that tell images of the classes from foreign ones, which belong to none of them. A higher score: more foreign.

All scores work on bottleneck features (n, d), pooled as `head.pool` does with `average_maximum`. A classifier's own
probabilities can't tell: they share 1 among the classes, whatever the image shows. The scores that need logits get them
from a linear head on these features, so that a score means the same for every classifier on this backbone.

A fitted score is a dict of arrays, for a safetensors file. Scoring needs NumPy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.scores import Floats, Integers

Arrays = dict[str, npt.NDArray[Any]]

NEIGHBOUR = 3
"""The distance to this nearest image counts; the nearest one alone may be an outlier itself."""
_DIRECTIONS = 256
"""Most directions in which known images may differ; the others hold little but noise."""
_PRINCIPAL = 64
"""Of them, those that ViM takes for what known images have in common; half of them if there are fewer."""
_INVERSE_REGULARIZATION = 10.0
"""Of the linear head. `benchmarks.foreign` shows how little depends on these numbers."""
_SMALLEST_VARIANCE = 1e-9
"""Of images that are all equal, so that their covariance has an inverse."""
_ROWS = 1000
"""Images that are compared with all known ones at once."""


@dataclass(frozen=True)
class Known:
    """Images that belong to the classes.

    Attributes:
        features: pooled (n, d), float32.
        labels: class indices (n,); a class may have no image.
    """

    features: Floats
    labels: Integers

    @cached_property
    def mean(self) -> Floats:
        found: Floats = self.features.mean(axis=0, dtype=np.float64).astype(np.float32)
        return found

    @cached_property
    def directions(self) -> Floats:
        """The principal directions (d, r), the one with the largest variance first."""
        centred = self.features - self.mean
        wide = len(centred) < centred.shape[1]
        products = centred @ centred.T if wide else centred.T @ centred
        squares, vectors = (part[..., -_DIRECTIONS:] for part in np.linalg.eigh(products.astype(np.float64)))
        kept = np.flatnonzero(squares >= 1e-7 * squares[-1])[::-1]  # equal images keep some, of length 0
        squares, vectors = np.maximum(squares[kept], 1e-12), vectors[:, kept]
        if wide:
            vectors = centred.T @ (vectors / np.sqrt(squares))
        return np.ascontiguousarray(vectors, dtype=np.float32)

    @cached_property
    def coordinates(self) -> Floats:
        """The images along the directions (n, r)."""
        found: Floats = (self.features - self.mean) @ self.directions
        return found

    @cached_property
    def classes(self) -> npt.NDArray[np.int32]:
        """Each image's class (n,), numbered without gaps."""
        return np.unique(self.labels, return_inverse=True)[1].astype(np.int32)

    @cached_property
    def linear(self) -> Arrays:
        """A linear head: `kernel` (d, classes) and `bias` (classes,), for features. The logits add up to 0."""
        from tasks.vgg.training.logistic_regression import fit_layer, new_model

        classes = int(self.classes.max()) + 1
        layer = fit_layer(new_model("none"), _INVERSE_REGULARIZATION, self.coordinates, self.classes, classes)
        kernel = self.directions @ (layer.kernel - layer.kernel.mean(axis=1, keepdims=True))
        return {"kernel": kernel, "bias": layer.bias - layer.bias.mean() - self.mean @ kernel}


class Score(NamedTuple):
    """A way to score.

    Attributes:
        needs_classes: it can't tell anything of images of a single class.
        fit: known images -> arrays.
        score: arrays, features (n, d) -> scores (n,).
    """

    needs_classes: bool
    fit: Callable[[Known], Arrays]
    score: Callable[[Arrays, Floats], Floats]


def shrunk_covariance(centred: Floats) -> Floats:
    """Covariance of images (n, r) with mean 0, mixed with its mean variance in all directions.

    The share is that of O. Ledoit, M. Wolf, A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices,
    2004. Without it, few images would leave directions without any variance.
    """
    centred = centred.astype(np.float64)
    number, columns = centred.shape
    covariance = centred.T @ centred / number
    variance = float(np.trace(covariance)) / columns
    spread = float(np.square(covariance - variance * np.eye(columns)).sum())
    noise = (
        float(np.square(np.square(centred).sum(axis=1)).sum()) / number - float(np.square(covariance).sum())
    ) / number
    share = 1.0 if spread <= 0 else min(max(noise / spread, 0.0), 1.0)
    mixed: Floats = (1 - share) * covariance + (share * variance + _SMALLEST_VARIANCE) * np.eye(columns)
    return mixed


def _log_sum(values: Floats) -> Floats:
    """Logarithm of the sum of exponentials along the last axis (n,)."""
    top = values.max(axis=-1)
    found: Floats = top + np.log(np.exp(values - top[..., np.newaxis]).sum(axis=-1))
    return found


def _logits(arrays: Arrays, features: Floats) -> Floats:
    found: Floats = features.astype(np.float64) @ arrays["kernel"] + arrays["bias"]
    return found


def _fit_linear(known: Known) -> Arrays:
    return known.linear


def _maximum_softmax(arrays: Arrays, features: Floats) -> Floats:
    """D. Hendrycks, K. Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples, 2017.

    Minus the logarithm of the largest probability, which orders images as the probability does.
    """
    logits = _logits(arrays, features)
    found: Floats = _log_sum(logits) - logits.max(axis=1)
    return found


def _energy(arrays: Arrays, features: Floats) -> Floats:
    """W. Liu et al., Energy-based Out-of-distribution Detection, 2020, at temperature 1."""
    return -_log_sum(_logits(arrays, features))


def _fit_neighbours(known: Known) -> Arrays:
    return {"known": _unit_length(known.features).astype(np.float16)}


def _neighbours(arrays: Arrays, features: Floats) -> Floats:
    """Y. Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, 2022: distance between unit lengths."""
    known = arrays["known"].astype(np.float32)
    place = min(NEIGHBOUR, len(known)) - 1
    found = np.empty(len(features))
    for start in range(0, len(features), _ROWS):
        part = slice(start, start + _ROWS)
        squares = 2 - 2 * (_unit_length(features[part]) @ known.T).astype(np.float64)
        found[part] = np.sqrt(np.maximum(np.partition(squares, place, axis=1)[:, place], 0))
    return found


def _fit_mahalanobis(known: Known) -> Arrays:
    inputs, classes = known.coordinates.astype(np.float64), known.classes
    means = np.stack([inputs[classes == number].mean(axis=0) for number in range(int(classes.max()) + 1)])
    within, overall = (np.linalg.inv(shrunk_covariance(one)) for one in (inputs - means[classes], inputs))
    return {
        "mean": known.mean,
        "directions": known.directions,
        "class_means": means.astype(np.float32),
        "within": within.astype(np.float32),
        "overall": overall.astype(np.float32),
    }


def _mahalanobis(arrays: Arrays, features: Floats) -> Floats:
    """J. Ren et al., A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection, 2021.

    The squared distance to the nearest class, minus that to all images, which are taken as one class.
    """
    inputs = (features - arrays["mean"]) @ arrays["directions"]
    distances = [_squared_distance(inputs - mean, arrays["within"]) for mean in arrays["class_means"]]
    found: Floats = np.min(distances, axis=0) - _squared_distance(inputs, arrays["overall"])
    return found


def _squared_distance(differences: Floats, precision: Floats) -> Floats:
    differences = differences.astype(np.float64)
    found: Floats = ((differences @ precision) * differences).sum(axis=1)
    return found


def _fit_virtual_logit(known: Known) -> Arrays:
    directions = np.ascontiguousarray(known.directions[:, : min(_PRINCIPAL, known.directions.shape[1] // 2)])
    arrays = {**known.linear, "mean": known.mean, "principal": directions}
    lengths = float(_residual(arrays, known.features).sum())
    scale = float(_logits(arrays, known.features).max(axis=1).sum()) / max(lengths, 1e-12)
    return {**arrays, "scale": np.array([scale], np.float32)}


def _virtual_logit(arrays: Arrays, features: Floats) -> Floats:
    """H. Wang et al., ViM: Out-Of-Distribution with Virtual-logit Matching, 2022.

    The logit of one more class grows with what a feature has outside of the principal directions. The score is the
    log-odds of this class, which orders images as its probability does.
    """
    virtual: Floats = arrays["scale"] * _residual(arrays, features) - _log_sum(_logits(arrays, features))
    return virtual


def _residual(arrays: Arrays, features: Floats) -> Floats:
    """Length of what lies outside of the principal directions (n,)."""
    centred = (features - arrays["mean"]).astype(np.float64)
    inside = centred @ arrays["principal"]
    found: Floats = np.sqrt(np.maximum(np.square(centred).sum(axis=1) - np.square(inside).sum(axis=1), 0))
    return found


def _unit_length(values: Floats) -> Floats:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    found: Floats = values / np.maximum(lengths, 1e-12)
    return found


@dataclass(frozen=True)
class Detector:
    """A fitted score with its threshold.

    Attributes:
        name: of the score, in `SCORES`.
        arrays: what was fitted.
        threshold: an image with a higher score is foreign.
    """

    name: str
    arrays: Arrays
    threshold: float

    def score(self, features: Floats) -> Floats:
        """Pooled features (n, d) -> scores (n,)."""
        return SCORES[self.name].score(self.arrays, features)


SCORES: dict[str, Score] = {
    "maximum_softmax": Score(True, _fit_linear, _maximum_softmax),
    "energy": Score(True, _fit_linear, _energy),
    "nearest_neighbours": Score(False, _fit_neighbours, _neighbours),
    "mahalanobis": Score(True, _fit_mahalanobis, _mahalanobis),
    "virtual_logit": Score(True, _fit_virtual_logit, _virtual_logit),
}
"""By name, the simplest first."""
