"""Detects a training that diverges or collapses, and explains why and what to change."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tasks.errors import TrainingError
from tasks.params import format_assignment
from tasks.vgg.head import Floats
from tasks.vgg.strategies.base import Phase

EPOCHS_AT_CHANCE = 3
"""This many epochs at chance in a row end the training."""
_AT_CHANCE = 0.99
"""Share of chance: whoever stays below knows something. With rare classes it is much to be below at all."""


def chance_loss(labels: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]) -> float:
    """Cross-entropy, nats, of a model that knows only how frequent each class is (ln of the classes, if equally)."""
    shares = np.bincount(labels, weights) / weights.sum()
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def is_at_chance(train_loss: float, chance: float, predict: Callable[[], Floats]) -> bool:
    """Whether the network is at chance: its loss is that of chance, and it predicts one class for all images."""
    return train_loss >= _AT_CHANCE * chance and len(np.unique(predict().argmax(axis=1))) == 1


def explain_collapse(phase: Phase, epoch: int, epochs_at_chance: int, loss: float, chance: float) -> str:
    """What happened, why, and what to do."""
    highest = max(phase.learning_rates.values())
    tutorial = phase.setting.name.startswith("train.tutorial.")
    also = "Train the head first and unfreeze at small learning rates (train.recipe=modern), or l" if tutorial else "L"
    return (
        f"Collapsed: since epoch {epoch - epochs_at_chance + 1} of the phase {phase.name!r} the model predicts the "
        f"same class for every image, and the loss stays at {loss:.3f} (chance level: {chance:.3f}). Adam "
        f"moves each weight by about the learning rate ({highest:g}), however small its gradient. Pretrained "
        f"convolutions don't survive large steps, least of all below an untrained head. {also}ower the learning rate: "
        f'make run SET="{_lower(phase)}"'
    )


def require_finite(loss: float, phase: Phase, epoch: int, step: int) -> None:
    """Stop at the first loss that is NaN or infinite.

    Raises:
        TrainingError: says where, and what to do.
    """
    if not math.isfinite(loss):
        raise TrainingError(
            f"The loss became {loss} in step {step + 1} of epoch {epoch + 1}, phase {phase.name!r}; the last finite "
            "weights are in the checkpoint, nothing was exported. If the images' features are sound, lower the "
            f'learning rate: make run SET="{_lower(phase)}"'
        )


def _lower(phase: Phase) -> str:
    """The phase's learning rate setting at a tenth of its value, as `SET` takes it."""
    return format_assignment(phase.setting.name, float(f"{phase.setting.value / 10:.3g}"))
