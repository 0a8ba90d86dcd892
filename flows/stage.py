"""One stage on another machine, for a pipeline that placed it there; the machines share no disk.

The worker's clone gives the code, the caller the settings and its dvc.lock, DVC's remote the inputs. What the stage
makes goes to the remote; its entry of dvc.lock and its costs go back to the caller. Only what the worker's cache lacks
is moved.
"""

from __future__ import annotations

import contextlib
from uuid import UUID

from prefect import flow
from prefect.runtime import flow_run

from flows.logs import shorten_errors
from flows.remote_attempt import AttemptChannel
from flows.run_context import this_run
from tasks import stages
from tasks.files import write_bytes
from tasks.runs.costs import read_history
from tasks.runs.ledger import LOCK_FILE, outputs, read_entry
from tasks.runs.materials import share
from tasks.runs.worktrees import RunContext, check_out, claimed, remove
from tasks.settings import PARAMS_FILE, load_settings
from tasks.workspace import Workspace


@flow
def stage(name: str, commit: str, params: str, lock: str, beat_s: float) -> None:
    """Run one stage for a pipeline, and tell it the entry of dvc.lock and the costs.

    Args:
        name: a stage of dvc.yaml, such as `train@fine_tuning`.
        commit: the code that the pipeline runs.
        params: its params.yaml.
        lock: its dvc.lock.
        beat_s: seconds from one sign of life to the next.
    """
    shorten_errors()
    run = this_run()
    channel = AttemptChannel(UUID(flow_run.id), beat_s)
    with channel.beating(), claimed(run.root, f"stage-{name}") as folder:
        check_out(run.root, folder, commit, run.say)
        write_bytes(folder / PARAMS_FILE, params.encode())
        write_bytes(folder / LOCK_FILE, lock.encode())
        settings = load_settings(folder).run.model_copy(update={"stage_retries": 0})  # the pipeline tries again
        base, _, item = name.partition("@")
        workspace = Workspace.at(folder)
        before = len(read_history(workspace))
        with contextlib.chdir(folder):
            stages.run(stages.BY_NAME[base], settings, RunContext(workspace, run), item or None)
            share(name, folder, outputs(folder, name), limit_s=settings.stage_time_limit_s, on_line=run.say)
        entry, costs = read_entry(folder, name), read_history(workspace)[before:]
        remove(run.root, folder)
    channel.succeed(entry, costs)
