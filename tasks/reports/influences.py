"""Metrics with the influence of each image on them, from which their confidence intervals follow.

The influence of an image is how much the metric rises, to first order, if the image counts slightly more (F. Hampel,
1974); the influences of all images add up to 0. A metric's standard error is that of the sum of independent groups'
influences, so one rule gives the interval of every metric, for images that are alone and for groups of any sizes.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.scores import Floats

Booleans = npt.NDArray[np.bool_]


class Measured(NamedTuple):
    """A metric.

    Attributes:
        value: of all images.
        influence: (n,) of each image on it.
        parts: which images (n,) it is about; if it is a mean over classes, those of each class.
    """

    value: float
    influence: Floats
    parts: tuple[Booleans, ...]


def weighted_mean(values: Floats, weights: Floats | None = None) -> Measured:
    """The mean of values (n,), in which an image counts as much as its weight (n,)."""
    weights = np.ones(len(values)) if weights is None else weights
    mean = float(np.average(values, weights=weights))
    return Measured(mean, weights * (values - mean) / weights.sum(), (np.ones(len(values), bool),))


def share_of(selected: Booleans, hits: Booleans) -> Measured | None:
    """The share of hits among the selected images, such as a recall or a precision; None if none is selected."""
    number = int(selected.sum())
    if not number:
        return None
    share = float(hits[selected].mean())
    return Measured(share, selected * (hits - share) / number, (selected,))


def f1_score(actual: Booleans, predicted: Booleans) -> Measured | None:
    """2 hits / (actual + predicted); None if there is neither."""
    both = int(actual.sum()) + int(predicted.sum())
    if not both:
        return None
    value = 2 * int((actual & predicted).sum()) / both
    influence = (2.0 * (actual & predicted) - value * (1.0 * actual + predicted)) / both
    return Measured(value, influence, (actual | predicted,))


def roc_auc(actual: Booleans, scores: Floats) -> Measured | None:
    """Probability that an image of the class has a higher score than another; equal scores count half.

    None if one side is empty. The influences are the structural components of E. R. DeLong et al., 1988.
    """
    positives, negatives = np.sort(scores[actual]), np.sort(scores[~actual])
    if not (len(positives) and len(negatives)):
        return None
    above = _share_below(negatives, scores)  # for an image of the class
    below = 1 - _share_below(positives, scores)  # for another one
    value = float(above[actual].mean())
    influence = np.where(actual, (above - value) / len(positives), (below - value) / len(negatives))
    return Measured(value, influence, (actual, ~actual))


def _share_below(ordered: Floats, scores: Floats) -> Floats:
    both = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    shares: Floats = both / (2 * len(ordered))
    return shares


def average_precision(actual: Booleans, scores: Floats) -> Measured | None:
    """Mean over the images of the class of the precision among all images with at least their score.

    None if no image is of the class.
    """
    number = int(actual.sum())
    if not number:
        return None
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], actual[order]
    last = np.searchsorted(-ordered, -ordered, "right")  # equal scores are one step
    precision = np.cumsum(hits)[last - 1] / last
    value = float(precision[hits].mean())
    # An image changes the precision at its own score and at every lower one.
    steps = np.where(hits, 1.0, 0.0) / last
    first = np.searchsorted(-ordered, -ordered, "left")
    slopes, levels = (_sum_from(part)[first] for part in (steps, steps * precision))
    influence = np.empty(len(scores))
    influence[order] = (hits * (precision - value) + hits * slopes - levels) / number
    return Measured(value, influence, (actual,))


def _sum_from(values: Floats) -> Floats:
    """At each place, the sum from there to the end."""
    sums: Floats = np.cumsum(values[::-1])[::-1]
    return sums


class Mean:
    """The mean of metrics of classes; undefined ones are left out. Keeps sums, because there may be many classes."""

    def __init__(self) -> None:
        self._value: float = 0.0
        self._influence: Floats = np.zeros(1)
        self._parts: list[tuple[Booleans, ...]] = []

    def add(self, measured: Measured | None) -> None:
        if measured is not None:
            self._value += measured.value
            self._influence = self._influence + measured.influence
            self._parts.append(measured.parts)

    def result(self) -> Measured | None:
        """The mean; None if all are undefined."""
        number = len(self._parts)
        if not number:
            return None
        return Measured(self._value / number, self._influence / number, tuple(chain.from_iterable(self._parts)))
