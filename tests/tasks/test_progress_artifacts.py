"""A stage's progress as a row of a table."""

from __future__ import annotations

from tasks.progress_artifacts import course_row


def test_row_of_the_course_holds_every_metric() -> None:
    state = {"done": 3, "total": 10, "unit": "epochs", "details": {"loss": 0.123456, "accuracy": 0.9}}
    row = course_row(state, 61.2)
    assert row == {"epochs": "3/10", "time": "1:01", "loss": "0.1235", "accuracy": "0.9"}
