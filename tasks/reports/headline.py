"""The headline metrics: what `reports/metrics.json` holds. DVC shows each as a column, so there are few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADLINE = {
    "validation": ("accuracy", "accuracy_ci95", "n", "log_loss"),
    "test": ("accuracy", "accuracy_ci95", "n", "balanced_accuracy", "log_loss", "expected_calibration_error"),
}
"""Split -> its metrics. All others, such as those of each class, are in `reports/evaluation.json`."""


def headline_metrics(evaluation: Mapping[str, Any], seconds: Mapping[str, float | None]) -> dict[str, Any]:
    """The champion, and each strategy's recipe, training time and headline metrics.

    Args:
        evaluation: what `reports/evaluation.json` holds (see `tasks.evaluate`).
        seconds: how long the training of each strategy took; None: unknown.
    """
    strategies = {
        name: {
            "recipe": one["recipe"],
            "train_seconds": seconds[name],
            **{split: {metric: one[split][metric] for metric in metrics} for split, metrics in HEADLINE.items()},
        }
        for name, one in evaluation["strategies"].items()
    }
    return {"champion": evaluation["champion"], "strategies": strategies}


def are_headlines_of(metrics: Mapping[str, Any], evaluation: Mapping[str, Any]) -> bool:
    """Whether headline metrics are those of an evaluation: git keeps the ones, DVC the other."""
    try:
        seconds = {name: one["train_seconds"] for name, one in metrics["strategies"].items()}
        return headline_metrics(evaluation, seconds) == metrics
    except (KeyError, TypeError, AttributeError):
        return False
