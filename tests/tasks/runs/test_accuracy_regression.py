"""The accuracy has dropped only if the confidence intervals don't overlap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.runs.accuracy_regression import describe_regression, read_metrics
from tasks.workspace import Workspace


def metrics(low: float, high: float, champion: str = "fine_tuning") -> dict[str, Any]:
    test = {"accuracy": (low + high) / 2, "accuracy_ci95": [low, high], "n": 100}
    other = {"accuracy": 0.1, "accuracy_ci95": [0.0, 0.2], "n": 100}
    return {"champion": champion, "strategies": {champion: {"test": test}, "other": {"test": other}}}


def test_accuracy_that_is_clearly_lower_is_reported_with_both_values() -> None:
    text = describe_regression(metrics(0.9, 0.96), metrics(0.7, 0.8, "progressive"))
    assert text is not None
    assert "from 0.9300 (95 % interval 0.9000 to 0.9600, 100 images) (fine_tuning)" in text
    assert "to 0.7500 (95 % interval 0.7000 to 0.8000, 100 images) (progressive)" in text


def test_drop_from_metrics_of_an_earlier_version_is_reported() -> None:
    before = metrics(0.9, 0.96)
    for one in before["strategies"].values():
        one["test"] |= {"correct": 93, "macro_f1": 0.93, "per_class": {"ants": {"recall": 0.9}}}
    assert describe_regression(before, metrics(0.7, 0.8)) is not None


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (metrics(0.9, 0.96), metrics(0.85, 0.91)),
        (metrics(0.7, 0.8), metrics(0.9, 0.96)),
        (metrics(0.9, 0.96), metrics(0.9, 0.96)),
        (None, metrics(0.1, 0.2)),
        (metrics(0.1, 0.2), None),
    ],
)
def test_drop_within_chance_or_without_earlier_metrics_is_not_reported(before: Any, now: Any) -> None:
    assert describe_regression(before, now) is None


@pytest.mark.parametrize("text", [None, "{", "{}"])
def test_metrics_that_are_not_there_are_none(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "reports").mkdir()
    if text is not None:
        (tmp_path / "reports/metrics.json").write_text(text)
    assert read_metrics(Workspace.at(tmp_path)) is None


def test_metrics_are_read(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/metrics.json").write_text(json.dumps(metrics(0.1, 0.2)))
    assert read_metrics(Workspace.at(tmp_path)) == metrics(0.1, 0.2)
