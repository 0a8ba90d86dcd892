"""The result of a training, and what it depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.files import fingerprint
from tasks.settings import ClassWeight, Settings
from tasks.vgg.head import Floats, Head
from tasks.vgg.training_data import Material
from tasks.vgg.weights import SHA256, Weights


@dataclass(frozen=True)
class FoldPredictions:
    """Keys of n images, and probabilities (n, classes), each row by a classifier that never saw the image."""

    keys: tuple[str, ...]
    probabilities: Floats


@dataclass(frozen=True)
class Outcome:
    """The result of a training.

    Attributes:
        head: trained.
        backbone: tensors of the backbone that training changed.
        validation_probabilities: (n, classes), by the classifier that never saw validation.
        summary: JSON of choices and curves.
        problem: why the model must not be used; None if nothing is wrong.
        folds: predictions for images of train and validation; None if there are none but those for validation.
    """

    head: Head
    backbone: Weights
    validation_probabilities: Floats
    summary: dict[str, Any]
    problem: str | None = None
    folds: FoldPredictions | None = None


def example_weights(labels: npt.NDArray[np.int32], weight: ClassWeight) -> Floats:
    """Weight of each example in the loss (n,): 1, or n / (classes x images of its class) (`balanced`)."""
    if weight == "none":
        return np.ones(len(labels), np.float32)
    counts = np.bincount(labels)
    shares = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return shares[labels].astype(np.float32)


def identify(settings: Settings, material: Material) -> dict[str, Any]:
    """What every training depends on, JSON: its settings, its examples with their labels and splits, its features."""
    examples = [[*split.keys, *split.labels.tolist()] for split in (material.train, material.validation)]
    return {
        "strategy": material.strategy,
        "train": settings.train.model_dump(mode="json", exclude={"checkpoint_interval_s"}),
        "augmentation": settings.augmentation.model_dump(mode="json"),
        "examples": fingerprint({"examples": examples, "folds": material.fold_of}),
        "features": material.kept,
        "weights": SHA256,
    }
