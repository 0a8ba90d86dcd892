"""Is this training getting anywhere? What goes wrong is told in words, with the cure."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tasks.errors import TrainingError
from tasks.vgg.head import Floats
from tasks.vgg.strategies import Phase

PATIENCE_AT_CHANCE = 3
"""Epochs in a row at chance after which nothing will come of it."""
_NEAR_CHANCE = 0.9


def chance_loss(labels: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]) -> float:
    """Cross-entropy, nats, of who knows nothing but how frequent each class is (ln of the classes, if equally)."""
    shares = np.bincount(labels, weights) / weights.sum()
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def is_at_chance(train_loss: float, chance: float, probabilities: Floats) -> bool:
    """Whether an epoch's network knows nothing: its loss is that of chance, and it gives every image one class."""
    return train_loss >= _NEAR_CHANCE * chance and len(np.unique(probabilities.argmax(axis=1))) == 1


def explain_collapse(phase: Phase, epoch: int, epochs_at_chance: int, loss: float, chance: float) -> str:
    """What happened, why, and what to do."""
    rate = max(phase.rates.values())
    return (
        f"Collapsed: since epoch {epoch - epochs_at_chance + 1} of the phase {phase.name!r} every image gets the "
        f"same answer, and the loss stays at {loss:.3f} (knowing nothing gives {chance:.3f}). Adam moves each weight "
        f"by about the learning rate ({rate:g}), however small its gradient; that is more than pretrained convolutions "
        "bear, above all below a head that knows nothing yet. This model is not exported. Train the head first and "
        "unfreeze with small rates: train.recipe=modern, or strategies=[progressive]; or lower the rate."
    )


def require_finite(loss: float, phase: Phase, epoch: int, step: int) -> None:
    """Stop at the first loss that is no number.

    Raises:
        TrainingError: says where, and what to do.
    """
    if not math.isfinite(loss):
        raise TrainingError(
            f"The loss became {loss} in step {step + 1} of epoch {epoch + 1}, phase {phase.name!r}; the last finite "
            "weights are in the checkpoint, nothing was exported. If the images' features are sound, lower the "
            f'rate: make run SET="{_rate_setting(phase)}={max(phase.rates.values()) / 10:g}"'
        )


def _rate_setting(phase: Phase) -> str:
    if phase.schedule == "constant":
        return "train.tutorial.learning_rate"
    strategy = {"head": "head_replacement", "blocks": "fine_tuning"}.get(phase.name, "progressive")
    return f"train.modern.{strategy}.{'head_learning_rate' if phase.name == 'head' else 'block_learning_rate'}"
