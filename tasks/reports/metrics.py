"""Metrics of a classifier on images that it was not trained on: pure functions of arrays.

A metric that is undefined (the recall of a class that has no image here) is None, so JSON gets null and never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.errors import DataError, TrainingError
from tasks.reports.uncertainty import accuracy_interval, effective_groups
from tasks.scores import Floats, Integers, log_loss, predict

CALIBRATION_BINS = 10
DECIMALS = 6
"""Metrics are stored rounded, because their last bits differ between processors."""
CONFIDENCE_THRESHOLDS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)


def measure(
    probabilities: Floats, labels: Integers, classes: Sequence[str], groups: Integers | None = None
) -> dict[str, Any]:
    """All metrics of one model on one split.

    Args:
        probabilities: (n, c), rows that sum to 1, columns in the order of `classes`.
        labels: (n,) integers, the true classes as indices into `classes`.
        classes: the c names.
        groups: (n,) numbers of the images' groups, see `uncertainty`; None: every image is alone.

    Returns:
        JSON-ready: `n`, `n_groups`, `effective_groups`, `correct`, `accuracy`, `accuracy_ci95` (see
        `uncertainty.accuracy_interval`), `log_loss` (natural logarithm) and `balanced_log_loss` (every class counts the
        same), `macro_f1` and `balanced_accuracy` (means over the classes where F1, recall are defined),
        `expected_calibration_error` (10 equal bins of the confidence, the highest probability), `majority_accuracy`
        (baseline: always predicting the most frequent class of these images), `per_class` {name: {precision, recall,
        f1, support}}, `confusion` (row = actual, column = predicted).

    Raises:
        DataError: there are no images.
        TrainingError: a probability is NaN or infinite.
    """
    _check(probabilities, labels, classes)
    n = len(labels)
    groups = np.arange(n) if groups is None else groups
    predicted = predict(probabilities)
    matrix = confusion_matrix(labels, predicted, len(classes))
    correct = int(np.trace(matrix))
    per_class = {name: _class_metrics(matrix, index) for index, name in enumerate(classes)}
    return {
        "n": n,
        "n_groups": len(np.unique(groups)),
        "effective_groups": effective_groups(groups),
        "correct": correct,
        "accuracy": correct / n,
        "accuracy_ci95": list(accuracy_interval(predicted == labels, groups)),
        "log_loss": max(0.0, log_loss(probabilities, labels)),
        "balanced_log_loss": max(0.0, log_loss(probabilities, labels, 1 / np.bincount(labels)[labels])),
        "macro_f1": _mean([one["f1"] for one in per_class.values()]),
        "balanced_accuracy": _mean([one["recall"] for one in per_class.values()]),
        "expected_calibration_error": expected_calibration_error(calibration(probabilities, labels)),
        "majority_accuracy": int(matrix.sum(axis=1).max()) / n,
        "per_class": per_class,
        "confusion": matrix.tolist(),
    }


def confusion_matrix(labels: Integers, predicted: Integers, n_classes: int) -> Integers:
    """(n,), (n,) -> (c, c) counts; row = actual, column = predicted."""
    flat = np.bincount(labels.astype(np.int64) * n_classes + predicted, minlength=n_classes * n_classes)
    return flat.reshape(n_classes, n_classes)


def calibration(probabilities: Floats, labels: Integers, groups: Integers | None = None) -> list[dict[str, Any]]:
    """Accuracy by confidence, for a reliability diagram.

    Confidence is the highest probability. Its `CALIBRATION_BINS` bins are (0, 0.1], (0.1, 0.2], ...; empty ones are
    left out. For `groups` see `measure`.
    """
    bins = CALIBRATION_BINS
    groups = np.arange(len(labels)) if groups is None else groups
    confidence = probabilities.max(axis=1).astype(np.float64)
    hits = predict(probabilities) == labels
    numbers = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for number in range(bins):
        inside = numbers == number
        n, correct = int(inside.sum()), int(hits[inside].sum())
        if n:
            rows.append(
                {
                    "from": number / bins,
                    "to": (number + 1) / bins,
                    "n": n,
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": correct / n,
                    "accuracy_ci95": list(accuracy_interval(hits[inside], groups[inside])),
                }
            )
    return rows


def expected_calibration_error(rows: Sequence[dict[str, Any]]) -> float:
    """Mean gap between confidence and accuracy, weighted by images (Guo et al. 2017, eq. 3)."""
    n = sum(row["n"] for row in rows)
    return float(sum(row["n"] / n * abs(row["accuracy"] - row["confidence"]) for row in rows))


def selective_prediction(probabilities: Floats, labels: Integers) -> list[dict[str, Any]]:
    """The share of predictions with at least this confidence (coverage), and their accuracy or None.

    El-Yaniv and Wiener 2010, On the Foundations of Noise-free Selective Classification.
    """
    confidence, hits = probabilities.max(axis=1), predict(probabilities) == labels
    rows = []
    for threshold in CONFIDENCE_THRESHOLDS:
        used = confidence >= threshold
        n, correct = int(used.sum()), int(hits[used].sum())
        accuracy = correct / n if n else None
        rows.append(
            {"threshold": threshold, "n": n, "coverage": n / len(labels), "correct": correct, "accuracy": accuracy}
        )
    return rows


def confused_pairs(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Which class was predicted for which, the most frequent pair first."""
    pairs = [
        {"actual": classes[row], "predicted": classes[column], "n": n, "support": sum(counts)}
        for row, counts in enumerate(confusion)
        for column, n in enumerate(counts)
        if n and row != column
    ]
    return sorted(pairs, key=lambda pair: -pair["n"])


def rounded(value: Any) -> Any:
    """Every float in nested dicts and lists, rounded to `DECIMALS`."""
    if isinstance(value, float):
        return round(value, DECIMALS)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def _class_metrics(matrix: Integers, index: int) -> dict[str, Any]:
    hits = int(matrix[index, index])
    support, predicted = int(matrix[index].sum()), int(matrix[:, index].sum())
    return {
        "precision": hits / predicted if predicted else None,
        "recall": hits / support if support else None,
        "f1": 2 * hits / (support + predicted) if support + predicted else None,
        "support": support,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _check(probabilities: Floats, labels: Integers, classes: Sequence[str]) -> None:
    if len(labels) == 0:
        raise DataError(
            "There are no images to evaluate on. Give the source a test folder, or raise prepare.test_fraction "
            "(and prepare.validation_fraction), then run again."
        )
    if probabilities.shape != (len(labels), len(classes)):
        raise ValueError(
            f"probabilities must be (n, c) = ({len(labels)}, {len(classes)}). Received: {probabilities.shape}"
        )
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"labels must be 0..{len(classes) - 1}. Received: {labels.min()}..{labels.max()}")
    broken = int(np.sum(~np.isfinite(probabilities).all(axis=1)))
    if broken:
        raise TrainingError(
            f"For {broken} of {len(labels)} images the model predicts NaN or infinite probabilities. "
            "Train again with a smaller train.tutorial.learning_rate, or with train.recipe=modern."
        )
    if np.abs(probabilities.sum(axis=1) - 1).max() > 1e-3 or probabilities.min() < 0:
        raise ValueError("Each row of probabilities must be >= 0 and sum to 1.")
