"""Recalibration of a classifier's probabilities on held-out predictions, folded into the last layer of its head.

A temperature divides the logits (C. Guo et al., On Calibration of Modern Neural Networks, 2017). A bias for each class
may be added (A. Alexandari et al., Maximum Likelihood with Bias-Corrected Calibration, 2020): with it, a class that is
predicted too often gets less. Vector scaling, with a factor for each class instead of one temperature, isn't offered:
it depends on a constant in the logits that no probability shows, and would need twice as many numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from tasks.scores import SMALLEST_PROBABILITY, Floats, Integers, log_loss
from tasks.settings import ClassWeight
from tasks.vgg.head import Head, softmax
from tasks.vgg.training.newton import Doubles, minimize
from tasks.vgg.training.outcome import FoldPredictions, Outcome, example_weights
from tasks.vgg.training_data import FOLDS, Material

Method = Literal["none", "temperature", "temperature_and_bias"]
_METHODS: tuple[Method, ...] = ("none", "temperature", "temperature_and_bias")
_SCALES = (0.05, 20.0)
"""The largest and the smallest temperature, inverted."""
_TOLERANCE = 1e-9
_MOST_STEPS = 100
_BIAS_PENALTY = 1.0
"""Weight of the squared biases: as much as one example whose log loss falls by half the square."""


@dataclass(frozen=True)
class Recalibration:
    """What changes the logits z into z / temperature + bias.

    Attributes:
        method: `none`, `temperature`, or `temperature_and_bias`.
        temperature: above 1 if the probabilities were too high.
        bias: (classes,).
    """

    method: Method
    temperature: float
    bias: Floats

    def apply(self, probabilities: Floats) -> Floats:
        """(n, classes) -> (n, classes) float32, recalibrated."""
        if self.method == "none":
            return probabilities
        return softmax((_logs(probabilities) / self.temperature + self.bias).astype(np.float32))

    def undo(self, probabilities: Floats) -> Floats:
        """The probabilities from before; what `apply` clipped stays clipped."""
        return softmax(((_logs(probabilities) - self.bias) * self.temperature).astype(np.float32))

    def into(self, head: Head) -> Head:
        """The head that predicts recalibrated probabilities: its last layer is changed, exactly."""
        if self.method == "none":
            return head
        last = head.layers[-1]
        kernel = (last.kernel / self.temperature).astype(np.float32)
        bias = (last.bias / self.temperature + self.bias).astype(np.float32)
        return replace(head, layers=(*head.layers[:-1], replace(last, kernel=kernel, bias=bias)))


@dataclass(frozen=True)
class Chosen:
    """The chosen recalibration, the probabilities (n, classes) that it gives to held-out examples, and its JSON.

    Each of these probabilities comes from a recalibration that was fitted without the example's group.
    """

    recalibration: Recalibration
    probabilities: Floats
    summary: dict[str, Any]


def recalibrate(outcome: Outcome, material: Material, weight: ClassWeight) -> Outcome:
    """The outcome with a recalibrated head and recalibrated predictions.

    Predictions of folds decide, if there are any, else those for validation. With test-time augmentation the change
    applies to each view, though it was chosen for their mean.
    """
    label_of = dict(zip(material.train.keys, material.train.labels.tolist(), strict=True))
    label_of |= dict(zip(material.validation.keys, material.validation.labels.tolist(), strict=True))
    known = outcome.folds or FoldPredictions(material.validation.keys, outcome.validation_probabilities)
    labels = np.array([label_of[key] for key in known.keys], np.int32)
    groups = np.array([material.group_of[key] for key in known.keys])
    chosen = choose_recalibration(known.probabilities, labels, groups, example_weights(labels, weight))
    validation = chosen.recalibration.apply(outcome.validation_probabilities) if outcome.folds else chosen.probabilities
    return replace(
        outcome,
        head=chosen.recalibration.into(outcome.head),
        validation_probabilities=validation,
        summary={**outcome.summary, "recalibration": chosen.summary},
        folds=replace(known, probabilities=chosen.probabilities) if outcome.folds else None,
    )


def choose_recalibration(probabilities: Floats, labels: Integers, groups: Integers, weights: Floats) -> Chosen:
    """Choose the method with the lowest log loss over folds of held-out examples; `none` wins if nothing is better.

    Args:
        probabilities: (n, classes), of examples that the classifier was not trained on.
        labels: (n,) class indices.
        groups: (n,) numbers of groups; a group is in one fold.
        weights: (n,) of the examples in the log loss.
    """
    outside = [groups % FOLDS == number for number in range(FOLDS)]
    across = {method: _across_folds(method, probabilities, labels, weights, outside) for method in _METHODS}
    losses = {method: round(log_loss(across[method], labels, weights), 6) for method in _METHODS}
    method = min(_METHODS, key=lambda name: losses[name])
    chosen = fit_recalibration(method, probabilities, labels, weights)
    summary = {
        "method": method,
        "temperature": round(chosen.temperature, 6),
        "bias": [round(float(one), 6) for one in chosen.bias],
        "examples": len(labels),
        "log_loss": losses,
    }
    return Chosen(chosen, across[method], summary)


def _across_folds(
    method: Method, probabilities: Floats, labels: Integers, weights: Floats, outside: Sequence[Any]
) -> Floats:
    result = np.array(probabilities, dtype=np.float32)
    for held in outside:
        if held.any() and not held.all():
            fitted = fit_recalibration(method, probabilities[~held], labels[~held], weights[~held])
            result[held] = fitted.apply(probabilities[held])
    return result


def fit_recalibration(method: Method, probabilities: Floats, labels: Integers, weights: Floats) -> Recalibration:
    """Minimize the log loss of held-out predictions; see `choose_recalibration` for the arguments."""
    classes = probabilities.shape[1]
    if method == "none":
        return Recalibration(method, 1.0, np.zeros(classes))
    free = classes if method == "temperature_and_bias" else 0
    loss = _Loss(_logs(probabilities), labels, weights, free)
    start = np.zeros(1 + free)
    start[0] = 1.0
    found = minimize(loss, start, _TOLERANCE, _MOST_STEPS).point
    bias = np.zeros(classes)
    bias[:free] = found[1:]
    return Recalibration(method, 1 / float(np.clip(found[0], *_SCALES)), bias)


class _Loss:
    """Mean log loss of softmax(scale * logs + bias), as a function of (scale, bias...) (`newton.Convex`)."""

    def __init__(self, logs: Doubles, labels: Integers, weights: Floats, free: int) -> None:
        self._logs, self._free, self._penalty = logs, free, _BIAS_PENALTY / len(labels)
        self._truth = np.zeros_like(logs)
        self._truth[np.arange(len(labels)), labels] = 1
        self._shares = (weights / weights.sum())[:, np.newaxis].astype(np.float64)
        self._predicted = logs

    def value_and_gradient(self, point: Doubles) -> tuple[float, Doubles]:
        values = point[0] * self._logs
        values[:, : self._free] += point[1:]
        values -= values.max(axis=1, keepdims=True)
        values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
        self._predicted = np.exp(values)
        value = -float((self._shares * self._truth * values).sum()) + self._penalty / 2 * float(point[1:] @ point[1:])
        return value, self._slopes(self._predicted - self._truth, point)

    def curve(self, direction: Doubles) -> Doubles:
        changes = direction[0] * self._logs
        changes[:, : self._free] += direction[1:]
        changes = self._predicted * (changes - (self._predicted * changes).sum(axis=1, keepdims=True))
        return self._slopes(changes, direction)

    def _slopes(self, errors: Doubles, point: Doubles) -> Doubles:
        errors = self._shares * errors
        by_class = errors.sum(axis=0)[: self._free] + self._penalty * point[1:]
        return np.concatenate([[float((errors * self._logs).sum())], by_class])


def _logs(probabilities: Floats) -> Doubles:
    logs: Doubles = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST_PROBABILITY))
    return logs
