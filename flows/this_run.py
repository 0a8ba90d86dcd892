"""The folder of this run: a deployed run works in its own folder, `make run` in the current folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import pyarrow.parquet  # noqa: F401 - before the run is due, while its process waits
from prefect import get_run_logger
from prefect.runtime import deployment, flow_run

from flows.start import CLONE_VARIABLE, COMMIT_VARIABLE
from tasks.params import load_settings
from tasks.runs.dvc_state import imports  # noqa: F401 - the same
from tasks.runs.run_context import DeployedRun, RunContext
from tasks.runs.tidying import keep_untidied, keep_untidied_here, tidy_after
from tasks.runs.worktrees import run_folder
from tasks.workspace import Workspace

prepared: ContextVar[RunContext | None] = ContextVar("prepared", default=None)
"""The context of a run that has begun before its flow."""


@contextlib.contextmanager
def this_run() -> Iterator[RunContext]:
    """The context of this run. The results of a deployed run are committed if the block ends without an error."""
    if CLONE_VARIABLE not in os.environ:
        context = prepared.get() or RunContext(Workspace.at(Path.cwd()))
        with keep_untidied_here(context.workspace, get_run_logger().info):
            yield context
        return
    run = deployed_run()
    clone = Workspace.at(run.clone)
    with (
        keep_untidied(clone, f"the run {run.title} of {run.name}", run.say),
        run_folder(run) as context,
        contextlib.chdir(context.workspace.folder),
    ):
        yield context
        kept_runs = load_settings(context.workspace.folder).run.kept_runs
    tidy_after(clone, kept_runs, run.say)


def deployed_run() -> DeployedRun:
    """The deployed run of this process."""
    return DeployedRun(
        clone=Path(os.environ[CLONE_VARIABLE]),
        name=deployment.name,
        commit=os.environ[COMMIT_VARIABLE],
        title=f"{flow_run.name} ({flow_run.id})",
        say=get_run_logger().info,
    )
