"""Messages from an attempt at a stage on another machine to its pipeline: heartbeats, then a result or a failure.

They go through Prefect's server, because the machines share nothing else. Each message replaces the previous one in an
artifact of the attempt's flow run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterType

from flows.logs import send_logs
from tasks.errors import RootstockError, RunError, TransientError
from tasks.progress_artifacts import SERVER_TROUBLE
from tasks.runs.costs import Costs
from tasks.runs.dvc_state.lock_entries import LockEntry
from tasks.runs.stage_failure import Remedy, StageFailed

_KIND = "attempt"
_GIVEN_UP = "This attempt was given up meanwhile ({}), so its result is refused and not used."


class AttemptChannel:
    """The worker's side.

    Args:
        flow_run: the attempt.
        every_s: seconds from one heartbeat to the next.

    Raises:
        RunError: the pipeline gave the attempt up before it began.
    """

    def __init__(self, flow_run: UUID, every_s: float) -> None:
        self._flow_run, self._every_s = flow_run, every_s
        self._over = threading.Event()
        self._check_wanted()
        with get_client(sync_client=True) as client:
            first = ArtifactCreate(type=_KIND, data=json.dumps({"heartbeat": 0}), flow_run_id=flow_run)
            self._artifact = client.create_artifact(first).id

    @contextlib.contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Send heartbeats during the block, and a failure if one ends it. An attempt that was given up gets SIGTERM."""
        thread = threading.Thread(target=self._send_heartbeats, args=(get_run_logger(),), daemon=True)
        thread.start()

        def finish() -> None:
            self._over.set()
            thread.join()

        try:
            yield
        except RootstockError as error:
            finish()
            self._send(failure=_describe(error))
            raise
        finally:
            finish()

    def send_result(self, entry: LockEntry, costs: list[Costs]) -> None:
        """Send the stage's entry of dvc.lock and its costs.

        Raises:
            RunError: the attempt was given up.
        """
        self._check_wanted()
        self._send(result={"entry": entry, "costs": costs})

    def _check_wanted(self) -> None:
        if (end := self._end()) is not None:
            raise RunError(_GIVEN_UP.format(end))

    def _send_heartbeats(self, logger: Any) -> None:
        number = 0
        while not self._over.wait(self._every_s):
            number += 1
            try:
                if (end := self._end()) is not None:
                    logger.error(_GIVEN_UP.format(end))
                    send_logs()
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                self._send(heartbeat=number)
            except SERVER_TROUBLE as error:  # the next one may go through
                logger.warning("A heartbeat could not be sent: %s: %s", type(error).__name__, error)

    def _end(self) -> str | None:
        """The state that ended the attempt, or None. The process of a run that was set to Crashed keeps running."""
        with get_client(sync_client=True) as client:
            states = client.read_flow_run_states(self._flow_run)
        end = next((state for state in states if state.is_final()), None)
        return None if end is None else ": ".join(filter(None, (end.name, end.message)))

    def _send(self, **message: Any) -> None:
        with get_client(sync_client=True) as client:
            client.update_artifact(self._artifact, ArtifactUpdate(data=json.dumps(message)))


def read_message(client: Any, flow_run: UUID) -> dict[str, Any]:
    """The attempt's last message: `heartbeat`, `result` or `failure`; empty before the first."""
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]), type=ArtifactFilterType(any_=[_KIND]))
    found = client.read_artifacts(artifact_filter=wanted)
    return dict(json.loads(found[0].data)) if found else {}


def _describe(error: RootstockError) -> dict[str, Any]:
    """An error as `StageFailed` takes it."""
    if isinstance(error, StageFailed):
        return {"reason": error.reason, "said": error.said, "command": error.command, "remedy": error.remedy}
    remedy = Remedy.WAIT if isinstance(error, TransientError) else Remedy.FIX
    return {"reason": f"{type(error).__name__}: {error}", "said": "", "command": "", "remedy": remedy}
