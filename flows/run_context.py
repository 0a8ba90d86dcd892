"""Where a flow works: a deployed run in a folder of its own, `make run` in the folder that it was called in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from prefect import get_run_logger
from prefect.runtime import deployment, flow_run

from flows.start import COMMIT_VARIABLE, ROOT_VARIABLE
from tasks.runs.worktrees import Deployed, RunContext, run_folder
from tasks.workspace import Workspace


@contextlib.contextmanager
def run_context() -> Iterator[RunContext]:
    """The context for a run of a flow; what a deployed run made is committed if the block ends well."""
    if ROOT_VARIABLE not in os.environ:
        yield RunContext(Workspace.at(Path.cwd()), None)
        return
    run = this_run()
    with run_folder(run) as folder, contextlib.chdir(folder):
        yield RunContext(Workspace.at(folder), run)


def this_run() -> Deployed:
    """The deployed run that this process is."""
    return Deployed(
        root=Path(os.environ[ROOT_VARIABLE]),
        name=deployment.name,
        commit=os.environ[COMMIT_VARIABLE],
        title=f"{flow_run.name} ({flow_run.id})",
        say=get_run_logger().info,
    )
