"""Tells from reports/metrics.json alone whether a new champion is clearly worse than the previous one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tasks.workspace import Workspace


def read_metrics(workspace: Workspace) -> dict[str, Any] | None:
    """The metrics of the workspace; None if they are missing or can't be read."""
    try:
        metrics: dict[str, Any] = json.loads(workspace.metrics.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return metrics if "champion" in metrics else None


def describe_regression(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str | None:
    """A sentence about the drop; None unless the 95 % intervals of the champions' test accuracies are disjoint.

    Disjoint intervals mean a clear difference, even if the held-out images changed in between. Overlapping intervals
    prove nothing: a small drop may be real. The intervals allow for images of one group being alike, see
    `tasks.reports.uncertainty`; so a drop on few groups is only reported if it is large.
    """
    if before is None or now is None:
        return None
    old, new = (metrics["strategies"][metrics["champion"]]["test"] for metrics in (before, now))
    if new["accuracy_ci95"][1] >= old["accuracy_ci95"][0]:
        return None
    return (
        f"The test accuracy dropped from {describe_accuracy(old)} ({before['champion']}) to {describe_accuracy(new)} "
        f"({now['champion']}). See what changed in the data report, and with: dvc params diff HEAD~1"
    )


def describe_accuracy(test: Mapping[str, Any]) -> str:
    """The accuracy on the test split, with its interval, in words."""
    low, high = test["accuracy_ci95"]
    return f"{test['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}, {test['n']} images)"
