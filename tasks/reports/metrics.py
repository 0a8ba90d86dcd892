"""Metrics of a classifier on images that it was not trained on: pure functions of arrays.

A metric that is undefined (the recall of a class that has no image here) is None, so JSON gets null and never NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.errors import DataError, TrainingError
from tasks.reports.influences import (
    Booleans,
    Mean,
    Measured,
    average_precision,
    f1_score,
    roc_auc,
    share_of,
    weighted_mean,
)
from tasks.reports.uncertainty import accuracy_interval, effective_groups, interval
from tasks.scores import Floats, Integers, log_losses, predict

CALIBRATION_BINS = 10
TOP_K = 5
"""Classes that the top-k accuracy allows, or one less than there are."""
_MACRO = {
    "recall": "balanced_accuracy",
    "precision": "macro_precision",
    "f1": "macro_f1",
    "roc_auc": "macro_roc_auc",
    "average_precision": "macro_average_precision",
}
DECIMALS = 6
"""Metrics are stored rounded, because their last bits differ between processors."""


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
        JSON-ready: `n`, `n_groups`, `effective_groups`, `correct`, `majority_accuracy` (baseline: always predicting the
        most frequent class of these images), `expected_calibration_error` (10 equal bins of the confidence, the highest
        probability), `confusion` (row = actual, column = predicted), and metrics of which each `x` has an interval
        `x_ci95` (`uncertainty.interval`): `accuracy` (with one class an image also micro precision, recall and F1),
        `top_k_accuracy` (`top_k` classes are named, see `TOP_K`), `log_loss` (natural logarithm) and
        `balanced_log_loss` (every class counts the same), `brier` (sum over the classes of squared errors, 0 to 2),
        means over the classes where they are defined: `balanced_accuracy` (macro recall), `macro_precision`,
        `macro_f1`, `macro_roc_auc` and `macro_average_precision` (one class against all others); and `per_class` {name:
        {precision, recall, f1, roc_auc, average_precision, support}}.

    Raises:
        DataError: there are no images.
        TrainingError: a probability is NaN or infinite.
    """
    _check(probabilities, labels, classes)
    n = len(labels)
    groups = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    predicted = predict(probabilities)
    matrix = confusion_matrix(labels, predicted, len(classes))
    losses = log_losses(probabilities, labels)
    top = min(TOP_K, max(1, len(classes) - 1))
    per_class, means = _measure_classes(probabilities, labels, classes, groups)
    shares = {
        "accuracy": weighted_mean(1.0 * (predicted == labels)),
        "top_k_accuracy": weighted_mean(1.0 * (_rank_of_truth(probabilities, labels) < top)),
        **means,
    }
    others = {
        "log_loss": weighted_mean(losses),
        "balanced_log_loss": weighted_mean(losses, 1 / np.bincount(labels)[labels]),
        "brier": weighted_mean(_squared_errors(probabilities, labels)),
    }
    return {
        "n": n,
        "n_groups": int(groups.max()) + 1,
        "effective_groups": effective_groups(groups),
        "correct": int(np.trace(matrix)),
        **_with_intervals(shares, groups),
        **_with_intervals(others, groups, is_share=False),
        "top_k": top,
        "expected_calibration_error": expected_calibration_error(calibration(probabilities, labels)),
        "majority_accuracy": int(matrix.sum(axis=1).max()) / n,
        "per_class": per_class,
        "confusion": matrix.tolist(),
    }


def _measure_classes(
    probabilities: Floats, labels: Integers, classes: Sequence[str], groups: Integers
) -> tuple[dict[str, Any], dict[str, Measured | None]]:
    """The metrics of each class, and their means over the classes."""
    predicted = predict(probabilities)
    per_class, means = {}, {name: Mean() for name in _MACRO}
    for index, name in enumerate(classes):
        measured = _of_class(probabilities[:, index], labels == index, predicted == index)
        per_class[name] = {**_with_intervals(measured, groups), "support": int((labels == index).sum())}
        for metric, mean in means.items():
            mean.add(measured[metric])
    return per_class, {_MACRO[name]: mean.result() for name, mean in means.items()}


def _of_class(scores: Floats, actual: Booleans, predicted: Booleans) -> dict[str, Measured | None]:
    """The metrics of one class against all others."""
    return {
        "recall": share_of(actual, predicted),
        "precision": share_of(predicted, actual),
        "f1": f1_score(actual, predicted),
        "roc_auc": roc_auc(actual, scores),
        "average_precision": average_precision(actual, scores),
    }


def _rank_of_truth(probabilities: Floats, labels: Integers) -> Integers:
    """How many classes come before the true one (n,); of equal probabilities, the first class comes first."""
    rows = np.arange(len(labels))
    truth = probabilities[rows, labels][:, np.newaxis]
    before = np.arange(probabilities.shape[1]) < labels[:, np.newaxis]
    ranks: Integers = ((probabilities > truth) | ((probabilities == truth) & before)).sum(axis=1)
    return ranks


def _squared_errors(probabilities: Floats, labels: Integers) -> Floats:
    """Sum over the classes of the squared differences from 0 and 1 (n,)."""
    truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    errors: Floats = np.square(probabilities, dtype=np.float64).sum(axis=1) - 2 * truth + 1
    return errors


def _with_intervals(
    measured: Mapping[str, Measured | None], groups: Integers, *, is_share: bool = True
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, one in measured.items():
        found[name] = None if one is None else one.value
        found[f"{name}_ci95"] = interval(one, groups, is_share=is_share)
    return found


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


def confidence_metrics(probabilities: Floats, labels: Integers) -> dict[str, float]:
    """`log_loss` and `expected_calibration_error`, as in `measure`."""
    rows = calibration(probabilities, labels)
    return {
        "log_loss": float(log_losses(probabilities, labels).mean()),
        "expected_calibration_error": expected_calibration_error(rows),
    }


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
