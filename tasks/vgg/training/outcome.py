"""What training gives back, and the two figures that choices are made by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from dvclive import Live

from tasks.settings import ClassWeight
from tasks.vgg.head import Floats, Head
from tasks.vgg.weights import Weights

_SMALLEST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class Outcome:
    """What training gives.

    Attributes:
        head: trained.
        backbone: tensors of the backbone that training has changed.
        validation_probabilities: (n, classes), by the classifier that never saw validation.
        summary: JSON of choices and curves.
        problem: why it is not to be used; None if nothing is wrong.
    """

    head: Head
    backbone: Weights
    validation_probabilities: Floats
    summary: dict[str, Any]
    problem: str | None = None


def log_loss(probabilities: Floats, labels: npt.NDArray[np.int32]) -> float:
    """Mean cross-entropy, nats: probabilities (n, classes), class indices (n,)."""
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, _SMALLEST_PROBABILITY)).mean())


def accuracy(probabilities: Floats, labels: npt.NDArray[np.int32]) -> float:
    """Share of examples whose most probable class is the true one."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def example_weights(labels: npt.NDArray[np.int32], weight: ClassWeight) -> Floats:
    """Weight of each example in the loss (n,): 1, or n / (classes x images of its class) (`balanced`)."""
    if weight == "none":
        return np.ones(len(labels), np.float32)
    counts = np.bincount(labels)
    shares = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return shares[labels].astype(np.float32)


def log_step(live: Live, figures: Mapping[str, float]) -> None:
    """Write one step of live metrics."""
    for name, value in figures.items():
        live.log_metric(name, value)
    live.next_step()
