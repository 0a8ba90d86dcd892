"""An attempt at a stage on another machine, as both sides see it: signs of life, then a result or a reason.

Both travel in one artifact of the attempt's flow run, through Prefect's server: the machines share nothing else.
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
from tasks.errors import RootstockError, RunError
from tasks.progress_artifacts import SERVER_TROUBLE
from tasks.runs.costs import Costs
from tasks.runs.ledger import Entry
from tasks.runs.stage_failure import StageFailed

_KIND = "attempt"
_GIVEN_UP = "This attempt was given up meanwhile ({}), so its result is refused. Nothing of it is used."


class AttemptChannel:
    """The worker's side.

    Args:
        flow_run: the attempt.
        every_s: seconds from one sign of life to the next.

    Raises:
        RunError: the attempt was given up before it began.
    """

    def __init__(self, flow_run: UUID, every_s: float) -> None:
        self._flow_run, self._every_s = flow_run, every_s
        self._over = threading.Event()
        self._check_wanted()
        with get_client(sync_client=True) as client:
            made = client.create_artifact(ArtifactCreate(type=_KIND, data=_write(beat=0), flow_run_id=flow_run))
        self._artifact = made.id

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Give signs of life inside the block. If the attempt is given up, SIGTERM ends this process."""
        logger = get_run_logger()
        thread = threading.Thread(target=self._beat, args=(logger,), daemon=True)
        thread.start()
        try:
            yield
        except StageFailed as error:
            self._finish(thread)
            self._send(failure=[error.reason, error.said, error.command, error.mendable])
            raise
        except RootstockError as error:
            self._finish(thread)
            self._send(failure=[f"{type(error).__name__}: {error}", "", "", True])
            raise
        finally:
            self._finish(thread)

    def succeed(self, entry: Entry, costs: list[Costs]) -> None:
        """Tell the stage's entry of dvc.lock, and what it cost.

        Raises:
            RunError: the attempt was given up.
        """
        self._check_wanted()
        self._send(entry=entry, costs=costs)

    def _check_wanted(self) -> None:
        if (end := self._end()) is not None:
            raise RunError(_GIVEN_UP.format(end))

    def _finish(self, thread: threading.Thread) -> None:
        self._over.set()
        thread.join()

    def _beat(self, logger: Any) -> None:
        number = 0
        while not self._over.wait(self._every_s):
            number += 1
            try:
                if (end := self._end()) is not None:
                    logger.error(_GIVEN_UP.format(end))
                    send_logs()
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                self._send(beat=number)
            except SERVER_TROUBLE as error:  # the next one may go through
                logger.warning("No sign of life could be given: %s: %s", type(error).__name__, error)

    def _end(self) -> str | None:
        """The state that ended the attempt, if one has: Prefect lets a run that counted as crashed run on."""
        with get_client(sync_client=True) as client:
            states = client.read_flow_run_states(self._flow_run)
        end = next((state for state in states if state.is_final()), None)
        return None if end is None else ": ".join(filter(None, (end.name, end.message)))

    def _send(self, **content: Any) -> None:
        with get_client(sync_client=True) as client:
            client.update_artifact(self._artifact, ArtifactUpdate(data=_write(**content)))


def read_report(client: Any, flow_run: UUID) -> dict[str, Any]:
    """What the attempt has told last: `beat`, `entry` and `costs`, or `failure`; nothing before the first."""
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]), type=ArtifactFilterType(any_=[_KIND]))
    found = client.read_artifacts(artifact_filter=wanted)
    return dict(json.loads(found[0].data)) if found else {}


def _write(**content: Any) -> str:
    return json.dumps(content)
