"""Log loss and accuracy: training, search and reports choose models by these two metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

SMALLEST_PROBABILITY = 1e-7
"""Smallest probability in the log loss: one float32 zero would make it infinite."""

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]


def log_losses(probabilities: Floats, labels: Integers) -> Floats:
    """Log loss of each example (n,), nats: probabilities (n, classes), class indices (n,)."""
    truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(np.maximum(truth, SMALLEST_PROBABILITY))


def log_loss(probabilities: Floats, labels: Integers, weights: Floats | None = None) -> float:
    """Mean of `log_losses`, in which an example (n,) counts as much as its weight; None: all the same."""
    return float(np.average(log_losses(probabilities, labels), weights=weights))


def predict(probabilities: Floats) -> Integers:
    """(n, classes) -> (n,) the most probable class; the first one if several are equal."""
    predicted: Integers = np.argmax(probabilities, axis=1)
    return predicted


def accuracy(probabilities: Floats, labels: Integers) -> float:
    """Share of examples whose most probable class is the true one."""
    return float((predict(probabilities) == labels).mean())
