"""Shows the progress and the metrics of a running stage in Prefect's UI.

A stage has two artifacts: `progress-<stage>`, a bar with one line of text, and `course-<stage>`, a table with one row
for each new set of metrics (an epoch's loss and accuracy). A stage that has nothing to do has no artifacts.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client, get_run_logger
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks.progress import clock, describe

_EVERY_S = 2.0
_LONGEST_COURSE = 200
_TRIES = 1
"""Prefect would otherwise wait for minutes for a server that is down, at each stage, and the work with it."""
SERVER_TROUBLE = (httpx.HTTPError, PrefectException, OSError)
"""Errors of a call when Prefect's server is down or refuses the call."""


class ProgressArtifacts:
    """Shows the states that `tasks.progress.Progress` writes, at most once in 2 s.

    Args:
        stage: its name in dvc.yaml.
    """

    def __init__(self, stage: str) -> None:
        self._name = re.sub(r"[^a-z0-9]+", "-", stage.lower())
        self._bar: UUID | None = None
        self._table: UUID | None = None
        self._course: list[dict[str, str]] = []
        self._shown_rows = 0
        self._start = self._sent_at = float("-inf")
        self._state: dict[str, Any] | None = None

    def show(self, state: dict[str, Any]) -> None:
        if self._state is None:
            self._start = time.monotonic()
        if state["details"] and (self._state is None or state["details"] != self._state["details"]):
            self._course = [*self._course, course_row(state, time.monotonic() - self._start)][-_LONGEST_COURSE:]
        self._state = state
        if time.monotonic() - self._sent_at >= _EVERY_S:
            self._send(state)

    def finish(self) -> None:
        if self._state is not None:
            self._send(self._state)

    def _send(self, state: dict[str, Any]) -> None:
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: _TRIES}):
                self._send_bar(state)
                self._send_course()
        except SERVER_TROUBLE as error:  # no reason to end hours of work
            get_run_logger().warning("The progress could not be shown: %s: %s", type(error).__name__, error)
        self._sent_at = time.monotonic()  # after the calls, so that a slow server gets fewer of them

    def _send_bar(self, state: dict[str, Any]) -> None:
        percent = 100.0 * state["done"] / state["total"] if state["total"] else 100.0
        text = f"**{state['stage']}** {describe(state)}"
        if self._bar is None:
            created = create_progress_artifact(percent, key=f"progress-{self._name}", description=text)
            assert isinstance(created, UUID)
            self._bar = created
        else:
            update_progress_artifact(self._bar, percent, description=text)

    def _send_course(self) -> None:
        if len(self._course) == self._shown_rows and len(self._course) < _LONGEST_COURSE:
            return
        if self._table is None:
            told = "Metrics that the stage reported while it ran, the latest last."
            created = create_table_artifact(self._course, key=f"course-{self._name}", description=told)
            assert isinstance(created, UUID)
            self._table = created
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self._table, ArtifactUpdate(data=json.dumps(self._course)))
        self._shown_rows = len(self._course)


def course_row(state: dict[str, Any], elapsed_s: float) -> dict[str, str]:
    """The table's row for a progress state with metrics."""
    metrics = {name: f"{value:.4g}" for name, value in state["details"].items()}
    return {state["unit"]: f"{state['done']}/{state['total']}", "time": clock(elapsed_s), **metrics}
