"""What every recipe gives back, and the two figures that choices are made by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from dvclive import Live

from tasks.vgg.head import Floats, Head

_SMALLEST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class Outcome:
    """A trained head; validation probabilities (n, classes) by the head that never saw validation; JSON of choices."""

    head: Head
    validation_probabilities: Floats
    summary: dict[str, Any]


def log_loss(probabilities: Floats, labels: npt.NDArray[np.int32]) -> float:
    """Mean cross-entropy, nats: probabilities (n, classes), class indices (n,)."""
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, _SMALLEST_PROBABILITY)).mean())


def accuracy(probabilities: Floats, labels: npt.NDArray[np.int32]) -> float:
    """Share of examples whose most probable class is the true one."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def balanced_weights(labels: npt.NDArray[np.int32], classes: int) -> dict[int, float]:
    """Class index -> weight n / (classes x pictures of the class), as scikit-learn's `balanced`."""
    counts = np.bincount(labels, minlength=classes)
    return {number: len(labels) / (classes * int(count)) for number, count in enumerate(counts) if count}


def log_step(live: Live, figures: Mapping[str, float]) -> None:
    """Write one step of live metrics."""
    for name, value in figures.items():
        live.log_metric(name, value)
    live.next_step()
