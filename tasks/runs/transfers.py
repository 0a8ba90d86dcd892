"""Outputs of stages, brought to a run's own folder when a stage needs them, and sent to DVC's remote.

Of a folder of which a stage reads a part, only that part is brought. What is there then isn't all that its own stage
made, so it is noted, and removed before another run goes on in the folder.
"""

from __future__ import annotations

import shutil

from tasks.runs.dvc_state.cache import remove_damaged
from tasks.runs.dvc_state.outputs import read_needs
from tasks.runs.supervisor import OnLine, run_dvc
from tasks.workspace import Workspace


def fetch_inputs(stage: str, workspace: Workspace, *, limit_s: float, on_line: OnLine) -> bool:
    """Whether a stage has to run; if so, all that dvc.lock names of what it needs is in the folder.

    Args:
        stage: its name in dvc.yaml.
        workspace: a run's own: what differs there is overwritten.
        limit_s: time limit of each step, seconds.
        on_line: gets the lines of output.

    Raises:
        StageFailed: something can't be brought.
    """
    needs = read_needs(workspace, stage)
    if needs.has_to_run or needs.undecided:
        if damaged := remove_damaged(workspace, stage):
            on_line(f"DVC's cache held wrong bytes of {', '.join(damaged)}. They are removed, and never used.")
            needs = read_needs(workspace, stage)
        _note_partial(workspace, needs.partial)
        for verb, paths in (("checkout", needs.cached), ("pull", needs.remote)):
            if paths:
                arguments = [verb, "--force", "--allow-missing", *paths]
                run_dvc(stage, arguments, workspace, limit_s=limit_s, on_line=on_line)
    return needs.has_to_run or (needs.undecided and read_needs(workspace, stage).has_to_run)


def push(stage: str, workspace: Workspace, paths: list[str], *, limit_s: float, on_line: OnLine) -> None:
    """Send what the cache holds, and the remote doesn't, to the remote that is DVC's default.

    Raises:
        StageFailed: it can't be sent.
    """
    if paths:
        run_dvc(stage, ["push", *paths], workspace, limit_s=limit_s, on_line=on_line)


def remove_partial(workspace: Workspace) -> None:
    """Remove outputs of which only a part was brought."""
    note = workspace.partial_outputs
    for path in note.read_text(encoding="utf-8").splitlines() if note.exists() else []:
        shutil.rmtree(workspace.folder / path, ignore_errors=True)
    note.unlink(missing_ok=True)


def _note_partial(workspace: Workspace, paths: list[str]) -> None:
    new = [path for path in paths if not (workspace.folder / path).exists()]  # else its stage has made it here
    if new:
        workspace.partial_outputs.parent.mkdir(exist_ok=True)
        with workspace.partial_outputs.open("a", encoding="utf-8") as file:
            file.write("".join(f"{path}\n" for path in new))
