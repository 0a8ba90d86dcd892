"""The flow of one stage on another machine, started by a pipeline; the machines share no disk.

The code comes from the worker's clone, the settings and dvc.lock from the caller, the inputs from DVC's remote. The
stage's outputs go to the remote; its entry of dvc.lock and its costs go back to the caller. Only files that the
worker's cache lacks are downloaded.
"""

from __future__ import annotations

import contextlib
from uuid import UUID

from prefect import flow
from prefect.runtime import flow_run

from flows.attempt_channel import AttemptChannel
from flows.logs import shorten_errors
from flows.server_outages import needs_server
from flows.this_run import deployed_run
from tasks import stages
from tasks.files import write_bytes
from tasks.params import load_settings
from tasks.runs.costs import read_history
from tasks.runs.dvc_state.lock_entries import read_lock_entry
from tasks.runs.dvc_state.outputs import list_outputs
from tasks.runs.run_context import RunContext
from tasks.runs.tidying import keep_untidied
from tasks.runs.transfers import TRANSFER_TRIES, push
from tasks.runs.worktrees import check_out, claim_folder, remove
from tasks.workspace import Workspace


@flow
def stage(name: str, commit: str, params: str, lock: str, heartbeat_s: float) -> None:
    """Run one stage for a pipeline, and send back its entry of dvc.lock and its costs.

    Args:
        name: a stage of dvc.yaml, such as `train@fine_tuning`.
        commit: the commit whose code the pipeline runs.
        params: the text of the pipeline's params.yaml.
        lock: the text of the pipeline's dvc.lock.
        heartbeat_s: seconds from one heartbeat to the next.
    """
    shorten_errors()
    run = deployed_run()
    channel = AttemptChannel(UUID(flow_run.id), heartbeat_s)
    with (
        channel.heartbeats(),
        keep_untidied(Workspace.at(run.clone), f"the stage {run.title}", run.say),
        claim_folder(run.clone, f"stage-{name}") as workspace,
    ):
        check_out(workspace, commit, run.say)
        write_bytes(workspace.params, params.encode())
        write_bytes(workspace.lock, lock.encode())
        settings, context = load_settings(workspace.folder).run, RunContext(workspace, run)
        once = settings.model_copy(update={"stage_retries": 0, "outage_limit_s": 0.0})  # the pipeline waits and retries
        base, _, item = name.partition("@")
        before = len(read_history(workspace))
        with contextlib.chdir(workspace.folder):
            stages.run_here(stages.BY_NAME[base], once, context, item or None)
            made = list_outputs(workspace, name)

            def send() -> None:
                push(name, workspace, made, limit_s=settings.stage_time_limit_s, on_line=run.say)

            stages.outlast(send, context, settings, TRANSFER_TRIES)  # waits here: the work is done
        entry, costs = read_lock_entry(workspace, name), read_history(workspace)[before:]
        remove(workspace)

    def send_result() -> None:
        with needs_server():
            channel.send_result(entry, costs)

    stages.outlast(send_result, context, settings)
