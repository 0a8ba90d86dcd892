"""Finds runs whose process is gone, and sets them to Crashed, which frees their slots. Every worker does so.

An automation of Prefect's server can't do it: when the server starts again after a minute, it takes its own silence for
that of the runs, and after several minutes it has forgotten for which runs it was waiting. A worker knows when the
server was silent, and nobody needs a slot while no worker runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.states import Crashed

from flows.alerts import FLOWS, HEARTBEAT_S
from flows.silence import Silence
from flows.start import COMMIT_VARIABLE
from tasks.progress_artifacts import SERVER_TROUBLE

EVERY_S = 10.0
SILENT_S = 3 * HEARTBEAT_S + 10.0
"""A run that sends heartbeats is lost if three of them are missing."""
STUCK_S = 3600.0
"""A run that doesn't begin, or whose cancelling doesn't end, is lost after this time."""
_HOLD_A_SLOT = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_HEARTBEAT = "prefect.flow-run.heartbeat"


class LostRuns:
    """Watches the runs of this project's flows.

    Args:
        silent_s: seconds after which a run without a new heartbeat is lost.
        clock: the monotonic clock, seconds.
    """

    def __init__(self, silent_s: float = SILENT_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._silent_s, self._clock = silent_s, clock
        self._silences: dict[UUID, Silence] = {}
        self._looked_at = clock()

    def look(self, client: Any) -> list[str]:
        """Look once, and set lost runs to Crashed. Returns their names.

        Raises:
            Exception: one of SERVER_TROUBLE; then all silences count from the server's next answer.
        """
        if self._clock() - self._looked_at > self._silent_s:  # nobody was watching: this process or the server slept
            self._silences.clear()
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOWS))),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_HOLD_A_SLOT)),
            ),
        )
        known = {run.id: self._silences.get(run.id) or Silence(self._clock) for run in runs}
        self._silences = known
        lost = [run.name for run in runs if self._is_lost(client, run) and _crash(client, run)]
        self._looked_at = self._clock()
        return lost

    def forget(self) -> None:
        """Count all silences from now on: the server was silent, which says nothing about the runs."""
        self._silences.clear()

    def _is_lost(self, client: Any, run: FlowRun) -> bool:
        assert run.state is not None
        silence = self._silences[run.id]
        if run.state.type != StateType.RUNNING:
            return silence.is_longer(str(run.state.id), STUCK_S)
        resource = EventResourceFilter(id=[f"prefect.flow-run.{run.id}"])
        wanted = EventFilter(event=EventNameFilter(name=[_HEARTBEAT]), resource=resource)
        heartbeats = client.read_events(wanted, limit=1).events
        if not heartbeats and not _sends_heartbeats(client, run):
            return False
        return silence.is_longer(str(heartbeats[0].id) if heartbeats else "", self._silent_s)


def _sends_heartbeats(client: Any, run: FlowRun) -> bool:
    """Whether its deployment is one of prefect.yaml; `make run`, and flows of others, may send none."""
    if run.deployment_id is None:
        return False
    return COMMIT_VARIABLE in (client.read_deployment(run.deployment_id).job_variables or {}).get("env", {})


def watch_in_background() -> None:
    """Watch until this process ends."""
    threading.Thread(target=_watch, name="lost runs", daemon=True).start()


def _watch() -> None:
    logger = logging.getLogger("prefect.lost_runs")  # Prefect shows the logs below `prefect`
    lost = LostRuns()
    while True:
        time.sleep(EVERY_S)
        try:
            with get_client(sync_client=True) as client:
                for name in lost.look(client):
                    logger.warning("Run %s was lost: it sends no heartbeat any more. It is set to Crashed.", name)
        except SERVER_TROUBLE:
            lost.forget()


def _crash(client: Any, run: FlowRun) -> bool:
    """Set a run to Crashed. Returns whether that was possible: the run may have just ended."""
    reason = "It stopped sending heartbeats: its machine or its process is gone."
    if run.state is not None and run.state.type != StateType.RUNNING:
        reason = f"It was {run.state.name} for more than an hour: its machine or its process is gone."
    return bool(client.set_flow_run_state(run.id, Crashed(message=reason)).status.name == "ACCEPT")
