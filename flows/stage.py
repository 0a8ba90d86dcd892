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

from flows.attempt import Report
from flows.logs import shorten_errors
from flows.workplace import this_run
from tasks import stages
from tasks.files import write_bytes
from tasks.runs.costs import append_history, read_history
from tasks.runs.ledger import LOCK_FILE, outputs, read_entry
from tasks.runs.materials import share
from tasks.runs.worktrees import Place, check_out, claimed, remove
from tasks.settings import PARAMS_FILE, load_settings


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
    report = Report(UUID(flow_run.id), beat_s)
    with report.beating(), claimed(run.root, f"stage-{name}") as folder:
        check_out(run.root, folder, commit, run.say)
        write_bytes(folder / PARAMS_FILE, params.encode())
        write_bytes(folder / LOCK_FILE, lock.encode())
        settings = load_settings(folder).run.model_copy(update={"stage_retries": 0})  # the pipeline tries again
        base, _, item = name.partition("@")
        before = len(read_history(folder))
        with contextlib.chdir(folder):
            stages.run(stages.BY_NAME[base], settings, Place(folder, run), item or None)
            share(name, folder, outputs(folder, name), limit_s=settings.stage_time_limit_s, on_line=run.say)
        entry, costs = read_entry(folder, name), read_history(folder)[before:]
        append_history(run.root, costs)  # the experience of `make plan` here
        remove(run.root, folder)
    report.succeed(entry, costs)
