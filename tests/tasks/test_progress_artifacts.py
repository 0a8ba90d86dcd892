"""What a stage's progress looks like in words and as a row."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.progress_artifacts import course_row, describe


def state(**changes: Any) -> dict[str, Any]:
    counts = {"stage": "train", "done": 3, "total": 10, "unit": "epochs"}
    return {**counts, "rate": 0.5, "seconds_left": 74.6, "details": {}, **changes}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "**train** 3/10 epochs, 0.5 epochs/s, 1:15 left"),
        ({"rate": 0.0, "seconds_left": None}, "**train** 3/10 epochs"),
        ({"done": 10, "seconds_left": 0.0}, "**train** 10/10 epochs, 0.5 epochs/s"),
        ({"details": {"loss": 0.123456}}, "**train** 3/10 epochs, 0.5 epochs/s, 1:15 left, loss 0.1235"),
    ],
)
def test_describe_tells_what_is_known(changes: dict[str, Any], text: str) -> None:
    assert describe(state(**changes)) == text


def test_row_of_the_course_holds_every_figure() -> None:
    row = course_row(state(details={"loss": 0.123456, "accuracy": 0.9}), 61.2)
    assert row == {"epochs": "3/10", "time": "1:01", "loss": "0.1235", "accuracy": "0.9"}
