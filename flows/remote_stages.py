"""Stages on other machines: sends them to a work pool's workers, watches and retries them, merges their results.

An attempt is a flow run of `stage/<pool>`. If it sends no heartbeat for `run.lost_after_s`, it is set to Crashed,
which frees its slot. The next attempt gets a new token, and a result with an old token is refused.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from typing import Any, TypeVar
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    WorkerFilter,
    WorkerFilterStatus,
)
from prefect.client.schemas.objects import State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelling, Crashed

from flows.attempt_channel import read_message
from flows.server_outages import needs_server
from flows.silence import Silence
from tasks.errors import RunError, TransientError
from tasks.markdown_tables import duration
from tasks.progress_artifacts import SERVER_TROUBLE
from tasks.runs.costs import Costs, append_history
from tasks.runs.dvc_state.lock_entries import LockEntry, begin_attempt, merge_lock_entry
from tasks.runs.dvc_state.outputs import list_inputs, read_needs
from tasks.runs.run_context import RunContext
from tasks.runs.stage_failure import Remedy, StageFailed
from tasks.runs.transfers import TRANSFER_TRIES, push
from tasks.settings import HERE, Run
from tasks.stages import StageTask, log, outlast, run_here
from tasks.workspace import LOCK

Result = TypeVar("Result")

_POLL_S = 1.0
_START_S = 120.0
_HEARTBEATS = 4
"""A worker that misses this many heartbeats counts as lost."""
_CHECK_SERVER = "Check that it runs, and that this machine reaches the address in PREFECT_API_URL."
_CHECK_WORKERS = "Start one: make worker POOL={}. If one runs, Prefect's UI shows whether the pool is paused."
_UNFINISHED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]


def check_work_pools(settings: Run, context: RunContext) -> None:
    """Check before the work that every work pool in `run.work_pools` has a deployment of the flow `stage`.

    Raises:
        RunError: a deployment is missing.
    """
    pools = {pool: stage for stage, pool in settings.work_pools if pool != HERE}
    if context.deployed is None or not pools:
        return
    with get_client(sync_client=True) as client:

        def look(pool: str) -> None:
            with needs_server():
                client.read_deployment_by_name(f"stage/{pool}")

        for pool, stage in pools.items():
            try:
                outlast(partial(look, pool), context, settings)
            except ObjectNotFound:
                raise RunError(
                    f"Stage {stage} should run on the work pool {pool} (run.work_pools in params.yaml), but there is "
                    f"no deployment stage/{pool}. Add it to prefect.yaml like stage/gpu, then run: prefect deploy --all"
                ) from None


def dispatch(stage_task: StageTask, settings: Run, context: RunContext, items: Sequence[str | None] = (None,)) -> None:
    """Bring a stage up to date: a deployed run does it where `run.work_pools` says, other runs do it here.

    Args:
        stage_task: a task of tasks/stages.py.
        settings: the block `run`.
        context: where the run works.
        items: the strategies, for a stage that exists once for each strategy; on a work pool they run in parallel.

    Raises:
        StageFailed: a stage failed, and no retry was left or could help.
        RunError: a result doesn't fit.
    """
    pool = getattr(settings.work_pools, stage_task.name, HERE)
    if context.deployed is None or pool == HERE:
        for item in items:
            run_here(stage_task, settings, context, item)
        return
    names = [stage_task.name if item is None else f"{stage_task.name}@{item}" for item in items]
    _WorkPool(pool, settings, context).run([name for name in names if read_needs(context.workspace, name).has_to_run])


@dataclass
class _Attempt:
    stage: str
    number: int
    flow_run: UUID
    silence: Silence = field(default_factory=lambda: Silence())
    waiting: Silence = field(default_factory=lambda: Silence())
    entry: LockEntry | None = None
    costs: list[Costs] = field(default_factory=list)
    merged: bool = False
    waits: bool = False
    retries: int = 0
    pauses: int = 0

    @property
    def token(self) -> str:
        return str(self.flow_run)


class _WorkPool:
    """The attempts of this run on one work pool."""

    def __init__(self, name: str, settings: Run, context: RunContext) -> None:
        assert context.deployed is not None
        self._name, self._settings = name, settings
        self._workspace, self._deployed, self._outages = context.workspace, context.deployed, context.outages
        self._logger = get_run_logger()
        self._tag = f"for {self._deployed.branch}"
        self._key = f"{flow_run.id} {flow_run.run_count}"  # a run that is retried in the UI keeps its id

    def run(self, names: Sequence[str]) -> None:
        """Run stages in parallel; merge their results in the order of `names`, as one machine would."""
        if not names:
            return
        with get_client(sync_client=True) as client:
            self._outlast(lambda: self._end_orphans(client))
            needed = sorted({path for name in names for path in list_inputs(self._workspace, name)})
            self._push(names[0], needed)
            attempts: list[_Attempt] = []
            try:
                # One by one: if a stage can't be started, the earlier ones are in the list and are cancelled below.
                attempts.extend(self._outlast(partial(self._start, client, name, 1)) for name in names)
                self._watch(client, attempts)
            finally:
                for attempt in attempts:
                    if attempt.entry is None:
                        self._cancel(client, attempt.flow_run)
                        with contextlib.suppress(*SERVER_TROUBLE):
                            _receive(client, attempt)  # it may have just succeeded
                self._merge(attempts)  # the attempts that succeeded before another one failed

    def _push(self, stage: str, paths: list[str]) -> None:
        def send() -> None:
            push(stage, self._workspace, paths, limit_s=self._settings.stage_time_limit_s, on_line=log)

        self._outlast(send, TRANSFER_TRIES)

    def _outlast(self, act: Callable[[], Result], tries: int = 1) -> Result:
        """Do something, after each outage again."""

        def try_once() -> Result:
            with needs_server():
                return act()

        return self._outages.outlast(try_once, self._settings.outage_limit_s, self._logger.warning, tries)

    def _watch(self, client: Any, attempts: list[_Attempt]) -> None:
        while not all(attempt.merged for attempt in attempts):
            for number, attempt in enumerate(attempts):
                if attempt.entry is None:
                    attempts[number] = self._look(client, attempt)
            self._merge(takewhile(lambda attempt: attempt.entry is not None, attempts))
            if not attempts[-1].merged:
                time.sleep(min(_POLL_S, self._settings.lost_after_s / _HEARTBEATS))

    def _merge(self, attempts: Iterable[_Attempt]) -> None:
        for attempt in attempts:
            if attempt.entry is not None and not attempt.merged:
                merge_lock_entry(self._workspace, attempt.stage, attempt.entry, attempt.token)
                append_history(self._workspace, attempt.costs)
                attempt.merged = True
                self._logger.info("Stage %s: its result is in %s.", attempt.stage, LOCK)

    def _look(self, client: Any, attempt: _Attempt) -> _Attempt:
        """The attempt in its present state, or the attempt that replaces it."""
        try:
            state, message = _receive(client, attempt)
        except SERVER_TROUBLE as error:
            self._logger.warning("Prefect's server doesn't answer (%s); nothing is lost.", type(error).__name__)
            attempt.silence.restart()  # a silent server says nothing about the worker
            if self._is_too_long(attempt):
                raise self._given_up(attempt, "Prefect's server has not answered", _CHECK_SERVER) from None
            return attempt
        if attempt.entry is not None:
            return attempt
        if state.is_final():
            return self._again(client, attempt, _failure(attempt, state, message))
        if state.is_scheduled():
            self._wait_for_worker(client, attempt)
            return attempt
        attempt.waiting.restart()
        if attempt.silence.is_longer(f"{state.type} {message}", limit_s := self._lost_after_s(message)):
            reason = f"its worker is lost: it sent no heartbeat for {limit_s:g} s (run.lost_after_s)"
            result = client.set_flow_run_state(attempt.flow_run, Crashed(message=f"Given up: {reason}."))
            if result.status == SetStateStatus.ACCEPT:  # else it has just ended by itself
                return self._again(
                    client, attempt, StageFailed(attempt.stage, reason, "", _command(attempt), Remedy.RETRY)
                )
        return attempt

    def _wait_for_worker(self, client: Any, attempt: _Attempt) -> None:
        if not attempt.waits:
            attempt.waits = True
            self._logger.info("Stage %s: waiting for a worker of pool %s.", attempt.stage, self._name)
        attempt.silence.restart()
        if self._is_too_long(attempt):
            if not self._is_served(client):
                nobody = f"no worker of pool {self._name} has taken it"
                raise self._given_up(attempt, nobody, _CHECK_WORKERS.format(self._name))
            attempt.waiting.restart()  # its workers are busy

    def _is_too_long(self, attempt: _Attempt) -> bool:
        return attempt.waiting.is_longer("waits", self._settings.outage_limit_s)

    def _is_served(self, client: Any) -> bool:
        """Whether a worker of the pool is there and may take a stage, now or when it has finished another one."""
        online = WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
        try:
            paused = client.read_work_pool(self._name).is_paused
            return not paused and bool(client.read_workers_for_work_pool(self._name, worker_filter=online))
        except SERVER_TROUBLE:
            return True  # nobody knows

    def _given_up(self, attempt: _Attempt, what: str, advice: str) -> TransientError:
        waited = f"{duration(self._settings.outage_limit_s)} (run.outage_limit_s)"
        return TransientError(f"Stage {attempt.stage}: {what} for {waited}. {advice} Finished work is kept.")

    def _lost_after_s(self, message: dict[str, Any]) -> float:
        """How long an attempt may be silent: longer before the first heartbeat, while the worker starts Python."""
        return self._settings.lost_after_s if message else max(self._settings.lost_after_s, _START_S)

    def _again(self, client: Any, attempt: _Attempt, failure: StageFailed) -> _Attempt:
        retries, pauses = attempt.retries, attempt.pauses
        if failure.remedy is Remedy.WAIT:
            # The other attempts go on meanwhile: their results and heartbeats are read after the pause.
            self._outages.pause(failure, pauses, self._settings.outage_limit_s, self._logger.warning)
            pauses += 1
        elif failure.remedy is Remedy.RETRY and retries < self._settings.stage_retries:
            self._logger.warning("%s\nThe stage is retried on any worker of pool %s.", failure, self._name)
            retries += 1
        else:
            raise failure
        again = self._outlast(lambda: self._start(client, attempt.stage, attempt.number + 1))
        again.retries, again.pauses = retries, pauses
        return again

    def _start(self, client: Any, stage: str, number: int) -> _Attempt:
        deployment = client.read_deployment_by_name(f"stage/{self._name}")
        lock = self._workspace.lock
        started = client.create_flow_run_from_deployment(
            deployment.id,
            parameters={
                "name": stage,
                "commit": self._deployed.commit,
                "params": self._workspace.params.read_text(encoding="utf-8"),
                "lock": lock.read_text(encoding="utf-8") if lock.exists() else "",
                "heartbeat_s": self._settings.lost_after_s / _HEARTBEATS,
            },
            name=f"{stage} for {flow_run.name}, attempt {number}",
            tags=[self._tag],
            idempotency_key=f"{self._key} {stage} {number}",
        )
        attempt = _Attempt(stage, number, started.id)
        begin_attempt(self._workspace, stage, attempt.token)
        self._logger.info("Stage %s: sent to the work pool %s, attempt %d.", stage, self._name, number)
        return attempt

    def _end_orphans(self, client: Any) -> None:
        """Cancel attempts that a killed run of this deployment has left on workers."""
        wanted = FlowRunFilter(
            tags=FlowRunFilterTags(all_=[self._tag]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNFINISHED)),
        )
        for orphan in client.read_flow_runs(flow_run_filter=wanted):
            if not (orphan.idempotency_key or "").startswith(f"{self._key} "):
                self._logger.warning("Cancelling %s, which a killed run has left.", orphan.name)
                self._cancel(client, orphan.id)

    def _cancel(self, client: Any, attempt: UUID) -> None:
        try:
            client.set_flow_run_state(attempt, Cancelling())  # does nothing to an attempt that has ended
        except SERVER_TROUBLE as error:  # the next run cancels it
            self._logger.warning("Flow run %s could not be cancelled: %s: %s", attempt, type(error).__name__, error)


def _receive(client: Any, attempt: _Attempt) -> tuple[State[Any], dict[str, Any]]:
    """The attempt's state and its last message. If the attempt succeeded, its result is stored in it."""
    state = client.read_flow_run(attempt.flow_run).state
    message = read_message(client, attempt.flow_run)
    if state.is_completed() and "result" in message:
        attempt.entry, attempt.costs = message["result"]["entry"], message["result"]["costs"]
    return state, message


def _failure(attempt: _Attempt, state: State[Any], message: dict[str, Any]) -> StageFailed:
    if told := message.get("failure"):
        command = told["command"] or _command(attempt)
        return StageFailed(attempt.stage, told["reason"], told["said"], command, Remedy(told["remedy"]))
    reason = f"its worker ended it as {state.name}" + (f": {state.message}" if state.message else "")
    remedy = Remedy.FIX if state.is_cancelled() else Remedy.RETRY
    return StageFailed(attempt.stage, reason, "", _command(attempt), remedy)


def _command(attempt: _Attempt) -> str:
    return f"dvc repro --single-item {attempt.stage}"
