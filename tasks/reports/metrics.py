"""Figures of a classifier on images that it was not trained on: pure functions of arrays, no files.

Figures that are undefined (the recall of a class that has no image here) are None, so JSON gets null and never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import DataError, TrainingError
from tasks.metrics import log_losses as log_losses
from tasks.metrics import predict as predict

Z95 = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""
CALIBRATION_BINS = 10
DECIMALS = 6
"""What is stored is rounded: the last bits differ between processors."""
CHAMPION_RULE = (
    "highest accuracy on validation; of equals the first in params.yaml whose validation log loss isn't higher than "
    "the lowest one by more than a standard error of the difference"
)
TRUST_LEVELS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]


def measure(probabilities: Floats, labels: Integers, classes: Sequence[str]) -> dict[str, Any]:
    """All figures of one model on one split.

    Args:
        probabilities: (n, c), rows that sum to 1, columns in the order of `classes`.
        labels: (n,) integers, the true classes as indices into `classes`.
        classes: the c names.

    Returns:
        JSON-ready: `n`, `correct`, `accuracy`, `accuracy_ci95` (Wilson), `log_loss` (natural logarithm), `macro_f1` and
        `balanced_accuracy` (means over the classes where F1, recall are defined), `expected_calibration_error`
        (10 equal bins of the top probability), `majority_accuracy` (always answering these images' commonest
        class), `per_class` {name: {precision, recall, f1, support}}, `confusion` (row = truth, column = answer).

    Raises:
        DataError: there are no images.
        TrainingError: a probability is not a number.
    """
    _check(probabilities, labels, classes)
    n = len(labels)
    matrix = confusion_matrix(labels, predict(probabilities), len(classes))
    correct = int(np.trace(matrix))
    per_class = {name: _class_figures(matrix, index) for index, name in enumerate(classes)}
    return {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "accuracy_ci95": list(wilson_interval(correct, n)),
        "log_loss": max(0.0, float(log_losses(probabilities, labels).mean())),
        "macro_f1": _mean([figures["f1"] for figures in per_class.values()]),
        "balanced_accuracy": _mean([figures["recall"] for figures in per_class.values()]),
        "expected_calibration_error": expected_calibration_error(calibration(probabilities, labels)),
        "majority_accuracy": int(matrix.sum(axis=1).max()) / n,
        "per_class": per_class,
        "confusion": matrix.tolist(),
    }


def confusion_matrix(labels: Integers, predicted: Integers, n_classes: int) -> Integers:
    """(n,), (n,) -> (c, c) counts; row = truth, column = answer."""
    flat = np.bincount(labels.astype(np.int64) * n_classes + predicted, minlength=n_classes * n_classes)
    return flat.reshape(n_classes, n_classes)


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927), without continuity correction.

    Unlike the textbook +-1.96 standard errors it keeps its promise near 0 and 1 and for small n
    (Brown, Cai and DasGupta 2001, Interval Estimation for a Binomial Proportion, Statistical Science 16).
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"0 <= successes <= n and n > 0 must hold. Received: successes={successes}, n={n}")
    share, z2 = successes / n, Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At the ends the bound is exact; rounding would leave 1e-17.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def compare_paired(first_correct: npt.NDArray[np.bool_], second_correct: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Exact McNemar test of two models on the same images (McNemar 1947; exact binomial, two-sided).

    Images that both get right, or both wrong, say nothing about which is better. Were the models equally good, each
    of the others would be a coin toss: `p_value` is the chance of a split at least this uneven.
    """
    if first_correct.shape != second_correct.shape:
        raise ValueError(f"Pairs need equal shapes. Received: {first_correct.shape}, {second_correct.shape}")
    first_only = int(np.sum(first_correct & ~second_correct))
    second_only = int(np.sum(second_correct & ~first_correct))
    return {
        "n": len(first_correct),
        "both_right": int(np.sum(first_correct & second_correct)),
        "first_only": first_only,
        "second_only": second_only,
        "p_value": _two_sided_sign_test(first_only, second_only),
    }


def calibration(probabilities: Floats, labels: Integers, bins: int = CALIBRATION_BINS) -> list[dict[str, Any]]:
    """How often the answer is right at each level of confidence, for a reliability diagram.

    Bins of the top probability are (0, 1/bins], (1/bins, 2/bins], ...; empty ones are left out.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = predict(probabilities) == labels
    numbers = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for number in range(bins):
        inside = numbers == number
        n, correct = int(inside.sum()), int(right[inside].sum())
        if n:
            rows.append(
                {
                    "from": number / bins,
                    "to": (number + 1) / bins,
                    "n": n,
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": correct / n,
                    "accuracy_ci95": list(wilson_interval(correct, n)),
                }
            )
    return rows


def expected_calibration_error(rows: Sequence[dict[str, Any]]) -> float:
    """Mean gap between confidence and accuracy, weighted by images (Guo et al. 2017, eq. 3)."""
    n = sum(row["n"] for row in rows)
    return float(sum(row["n"] / n * abs(row["accuracy"] - row["confidence"]) for row in rows))


def trust_levels(probabilities: Floats, labels: Integers) -> list[dict[str, Any]]:
    """If only answers at least this sure are taken: how many are, and how often they are right (None if none is)."""
    confidence = probabilities.max(axis=1)
    right = predict(probabilities) == labels
    rows = []
    for level in TRUST_LEVELS:
        taken = confidence >= level
        n, correct = int(taken.sum()), int(right[taken].sum())
        accuracy = correct / n if n else None
        rows.append({"level": level, "n": n, "share": n / len(labels), "correct": correct, "accuracy": accuracy})
    return rows


def confused_pairs(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Which class was taken for which, the commonest first."""
    pairs = [
        {"actual": classes[row], "predicted": classes[column], "n": n, "support": sum(counts)}
        for row, counts in enumerate(confusion)
        for column, n in enumerate(counts)
        if n and row != column
    ]
    return sorted(pairs, key=lambda pair: -pair["n"])


def choose_champion(validation: Mapping[str, Mapping[str, Any]], losses: Mapping[str, Mapping[str, float]]) -> str:
    """The name by `CHAMPION_RULE` (one-standard-error rule: L. Breiman et al., 1984).

    Who stops early has already chosen an epoch by this very log loss, so a slightly lower one means nothing.

    Args:
        validation: figures by name, in the order of params.yaml.
        losses: the log loss of each validation image, nats, by name and key.
    """
    best = max(figures["accuracy"] for figures in validation.values())
    equals = [name for name, figures in validation.items() if figures["accuracy"] == best]
    lowest = min(equals, key=lambda name: validation[name]["log_loss"])
    return next(name for name in equals if _is_as_low(losses[name], losses[lowest]))


def _is_as_low(one: Mapping[str, float], lowest: Mapping[str, float]) -> bool:
    differences = np.array([one[key] - lowest[key] for key in sorted(one.keys() & lowest.keys())])
    return bool(differences.mean() <= differences.std() / np.sqrt(len(differences)))


def rounded(value: Any) -> Any:
    """Every float in nested dicts and lists, rounded to `DECIMALS`."""
    if isinstance(value, float):
        return round(value, DECIMALS)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def _class_figures(matrix: Integers, index: int) -> dict[str, Any]:
    hits = int(matrix[index, index])
    support, answers = int(matrix[index].sum()), int(matrix[:, index].sum())
    return {
        "precision": hits / answers if answers else None,
        "recall": hits / support if support else None,
        "f1": 2 * hits / (support + answers) if support + answers else None,
        "support": support,
    }


def _two_sided_sign_test(first: int, second: int) -> float:
    n = first + second
    term = tail = 1
    for k in range(min(first, second)):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << n))


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _check(probabilities: Floats, labels: Integers, classes: Sequence[str]) -> None:
    if len(labels) == 0:
        raise DataError(
            "There are no images to measure on. Give the source a test folder, or raise prepare.test_fraction "
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
            f"For {broken} of {len(labels)} images the model gives probabilities that are not numbers. "
            "Train again with a smaller train.tutorial.learning_rate, or with train.recipe=modern."
        )
    if np.abs(probabilities.sum(axis=1) - 1).max() > 1e-3 or probabilities.min() < 0:
        raise ValueError("Each row of probabilities must be >= 0 and sum to 1.")
