"""A stage's progress as Prefect shows it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks import progress_artifacts
from tasks.progress_artifacts import course_row


def test_row_of_the_course_holds_every_metric() -> None:
    state = {"done": 3, "total": 10, "unit": "epochs", "details": {"loss": 0.123456, "accuracy": 0.9}}
    row = course_row(state, 61.2)
    assert row == {"epochs": "3/10", "time": "1:01", "loss": "0.1235", "accuracy": "0.9"}


def test_progress_does_not_make_the_work_wait_for_a_server_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's client asks so often that each progress would take minutes."""
    retries, said = list[int](), list[tuple[object, ...]]()

    def refuse(*_: Any, **__: Any) -> None:
        retries.append(PREFECT_CLIENT_MAX_RETRIES.value())
        raise httpx.ConnectError("refused")

    logger = SimpleNamespace(warning=lambda *told: said.append(told))
    monkeypatch.setattr(progress_artifacts, "create_progress_artifact", refuse)
    monkeypatch.setattr(progress_artifacts, "get_run_logger", lambda: logger)
    state = {"stage": "train", "done": 1, "total": 3, "unit": "epochs", "details": {}, "rate": None}
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 7}):
        shown = progress_artifacts.ProgressArtifacts("train")
        shown.show({**state, "seconds_left": None})
        shown.finish()
    assert (retries, len(said)) == ([1, 1], 2)
