"""The linear probe: multinomial logistic regression on pooled, unit-length features of the frozen backbone.

It is all of `modern` feature extraction, and what `modern` fine-tuning begins with.

Average and maximum pooling joined beat either alone, and unit length beats standardising, on small sets (K. Simonyan,
A. Zisserman 2015, appendix B, use L2-normalised features; on ants/bees, 3x5 folds: 0.932 joined, 0.931 average alone).
The strength of the regularisation is the one setting, chosen by the log loss on the validation split, which is steadier
than accuracy. With `refit_with_validation` the chosen head is then trained once more on train + validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from dvclive import Live
from sklearn.linear_model import LogisticRegression

from tasks.errors import TrainingError
from tasks.progress import Progress
from tasks.settings import ClassWeight, ModernRecipe
from tasks.vgg.examples import Split
from tasks.vgg.head import Dense, Floats, Head, softmax
from tasks.vgg.recipes.outcome import accuracy, log_loss, log_step

POOLING: Final = "average_maximum"
_MAX_ITERATIONS = 2000


@dataclass(frozen=True)
class Probe:
    """The head that validation chose, its probabilities (n, classes) there, and JSON of how it was chosen."""

    head: Head
    validation_probabilities: Floats
    summary: dict[str, Any]


def fit_probe(
    rules: ModernRecipe, weight: ClassWeight, classes: int, train: Split, validation: Split, live: Live | None = None
) -> Probe:
    """Fit a head to the train split for every candidate; gives the best on validation.

    Raises:
        TrainingError: a feature is not a finite number.
    """
    inputs, held_out = train.pooled(POOLING), validation.pooled(POOLING)
    broken = sum(int((~np.isfinite(values).all(axis=1)).sum()) for values in (inputs, held_out))
    if broken:
        raise TrainingError(
            f"The features of {broken} pictures are NaN or infinite. Compute them anew: "
            "rm -r data/features && dvc repro --force --single-item features"
        )
    model = LogisticRegression(warm_start=True, **_options(weight))  # the next candidate starts from the last
    tried: list[tuple[dict[str, float], Dense]] = []
    with Progress("train", len(rules.inverse_regularization), "candidates") as progress:
        for strength in sorted(rules.inverse_regularization):
            layer = _fit(model.set_params(C=strength), inputs, train.labels, classes)
            figures = _figures(layer, held_out, validation.labels)
            tried.append(({"inverse_regularization": strength, **figures}, layer))
            if live is not None:
                log_step(live, tried[-1][0])
            progress.advance(details=figures)
    best, chosen = min(tried, key=lambda candidate: candidate[0]["validation_log_loss"])
    summary = {
        "candidates": [figures for figures, _ in tried],
        "chosen": {"inverse_regularization": best["inverse_regularization"]},
    }
    return Probe(Head(POOLING, (chosen,)), softmax(held_out @ chosen.kernel + chosen.bias), summary)


def refit(probe: Probe, weight: ClassWeight, classes: int, splits: Sequence[Split]) -> Head:
    """The chosen head, fitted once more to several splits together."""
    strength = probe.summary["chosen"]["inverse_regularization"]
    model = LogisticRegression(C=strength, **_options(weight))
    inputs = np.concatenate([split.pooled(POOLING) for split in splits])
    return Head(POOLING, (_fit(model, inputs, np.concatenate([split.labels for split in splits]), classes),))


def _options(weight: ClassWeight) -> dict[str, Any]:
    return {"max_iter": _MAX_ITERATIONS, "class_weight": None if weight == "none" else weight}


def _fit(model: LogisticRegression, inputs: Floats, labels: npt.NDArray[np.int32], classes: int) -> Dense:
    """The fitted regression as a dense layer with one unit a class."""
    model.fit(inputs, labels)
    kernel = np.zeros((inputs.shape[1], classes), np.float32)
    bias = np.zeros(classes, np.float32)
    if classes == 2:  # scikit-learn keeps one unit: a sigmoid is a softmax whose first input is 0
        kernel[:, 1], bias[1] = model.coef_[0], model.intercept_[0]
    else:
        kernel[:], bias[:] = model.coef_.T, model.intercept_
    return Dense(kernel, bias, "softmax")


def _figures(layer: Dense, inputs: Floats, labels: npt.NDArray[np.int32]) -> dict[str, float]:
    probabilities = softmax(inputs @ layer.kernel + layer.bias)
    return {
        "validation_log_loss": round(log_loss(probabilities, labels), 6),
        "validation_accuracy": round(accuracy(probabilities, labels), 6),
    }
