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
from tasks.vgg.training.outcome import FoldPredictions, Outcome, example_weights
from tasks.vgg.training_data import FOLDS, Material

Method = Literal["none", "temperature", "temperature_and_bias"]
_METHODS: tuple[Method, ...] = ("none", "temperature", "temperature_and_bias")
_LOG_TEMPERATURES = (-3.0, 3.0)
"""Natural logarithms of the smallest and the largest temperature."""
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
    from scipy.optimize import minimize

    logs = _logs(probabilities)
    truth = np.zeros_like(logs)
    truth[np.arange(len(labels)), labels] = 1
    shares = (weights / weights.sum())[:, np.newaxis]
    penalty = _BIAS_PENALTY / len(labels)
    free = classes if method == "temperature_and_bias" else 0

    def loss(values: Floats) -> tuple[float, Floats]:
        scale, bias = np.exp(-values[0]), np.zeros(classes)
        bias[:free] = values[1:]
        scaled = logs * scale + bias
        scaled -= scaled.max(axis=1, keepdims=True)
        predicted = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        error = shares * (np.exp(predicted) - truth)
        slope = -scale * float((error * logs).sum())
        value = -float((shares * truth * predicted).sum()) + penalty / 2 * float(np.square(bias).sum())
        return value, np.concatenate([[slope], (error.sum(axis=0) + penalty * bias)[:free]])

    found = minimize(
        loss, np.zeros(1 + free), jac=True, method="L-BFGS-B", bounds=[_LOG_TEMPERATURES] + free * [(None, None)]
    )
    bias = np.zeros(classes)
    bias[:free] = found.x[1:]
    return Recalibration(method, float(np.exp(found.x[0])), bias)


def _logs(probabilities: Floats) -> Floats:
    logs: Floats = np.log(np.maximum(probabilities.astype(np.float64), SMALLEST_PROBABILITY))
    return logs
