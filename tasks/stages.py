"""The Prefect tasks, one for each stage. Each task supervises one `dvc repro --single-item` child process.

DVC decides whether a stage must run, without a process if it need not; Prefect never caches. A stage is retried only if
a retry can help; if something outside doesn't answer, the task waits. Only flows import this module.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from tasks.errors import RootstockError
from tasks.live_line import LiveLine
from tasks.progress_artifacts import ProgressArtifacts
from tasks.runs.dvc_state.changes import is_up_to_date
from tasks.runs.run_context import RunContext
from tasks.runs.stage_failure import Remedy, StageFailed
from tasks.runs.supervisor import bring_up_to_date
from tasks.runs.transfers import TRANSFER_TRIES, fetch_inputs
from tasks.settings import Run

StageTask = Task[[str, RunContext, Run], None]
Result = TypeVar("Result")

_FIRST_RETRY_AFTER_S = 5.0
_LEVELS = (
    (re.compile(r"ERROR: |CRITICAL: |[\w.]*(Error|Exception): "), logging.ERROR),
    (re.compile(r"WARNING: |[\w./:-]+ \w*Warning: "), logging.WARNING),
    # DVC prints this after every stage; it is meant for people at a prompt.
    (
        re.compile(
            r"To track the changes with git|To enable auto staging|Use `dvc push`|\tgit add|\tdvc config"
            r"|Data and pipelines are up to date"
        ),
        10,
    ),
)


def run_here(stage_task: StageTask, settings: Run, context: RunContext, item: str | None = None) -> None:
    """Run one stage's task on this machine, with the retries and the time limits of the block `run`.

    Args:
        stage_task: a task of this module.
        settings: the block `run`.
        context: where the run works.
        item: the strategy, for a stage that exists once for each strategy.

    Raises:
        StageFailed: the stage failed, and no retry was left or could help.
    """
    stage = stage_task.name if item is None else f"{stage_task.name}@{item}"
    retries = settings.stage_retries
    # Prefect calls a function for the delays when the task is defined, so both options are set here together.
    prepared = stage_task.with_options(retries=retries, retry_delay_seconds=exponential_backoff(_FIRST_RETRY_AFTER_S))
    prepared(stage, context, settings)


def is_finished(context: RunContext) -> bool:
    """Whether all stages of a deployed run are up to date, checked at once. Always False in a person's folder."""
    return context.deployed is not None and is_up_to_date(context.workspace)


def _retry_can_help(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    return not isinstance(state.data, RootstockError) or (
        isinstance(state.data, StageFailed) and state.data.remedy is Remedy.RETRY
    )


def _define(name: str) -> StageTask:
    @task(
        name=name,
        task_run_name="{stage}",
        cache_policy=NO_CACHE,
        persist_result=False,
        retry_condition_fn=_retry_can_help,
    )
    def supervise(stage: str, context: RunContext, settings: Run) -> None:
        workspace, limit_s = context.workspace, settings.stage_time_limit_s

        def fetch() -> bool:
            return fetch_inputs(stage, workspace, limit_s=limit_s, on_line=log)

        def compute() -> None:
            progress = ProgressArtifacts(stage)

            def show(state: dict[str, Any]) -> None:
                live.show(state)
                progress.show(state)

            with LiveLine(stage) as live:
                on_line = partial(live.aside, log)
                if not (context.head_start and context.head_start.take_over(stage, on_line, show)):
                    bring_up_to_date(
                        stage, workspace, limit_s=limit_s, on_line=on_line, on_progress=show, warm=context.warm
                    )
            progress.finish()

        if context.deployed is not None and not outlast(fetch, context, settings, TRANSFER_TRIES):
            get_run_logger().info("Stage %s didn't change.", stage)
            return
        outlast(compute, context, settings)

    return supervise


def outlast(act: Callable[[], Result], context: RunContext, settings: Run, tries: int = 1) -> Result:
    """Do something in the running task or flow; if something outside doesn't answer, wait and do it again.

    Raises:
        RootstockError: see `tasks.runs.outages.Outages.outlast`.
    """
    stop = "" if context.deployed else " Ctrl-C stops the run."

    def say(text: str) -> None:
        get_run_logger().warning("%s%s", text, stop)

    return context.outages.outlast(act, settings.outage_limit_s, say, tries)


def log(line: str) -> None:
    """Log a line of a child's output in the running task or flow, at the level that the line shows."""
    level = next((level for pattern, level in _LEVELS if pattern.match(line)), logging.INFO)
    get_run_logger().log(level, "%s", line)


ingest = _define("ingest")
prepare = _define("prepare")
features = _define("features")
train = _define("train")
evaluate = _define("evaluate")
export = _define("export")

BY_NAME: dict[str, StageTask] = {one.name: one for one in (ingest, prepare, features, train, evaluate, export)}
