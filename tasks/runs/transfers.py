"""Fetches outputs of stages into a run's folder when a stage needs them, and pushes outputs to DVC's remote.

If a stage reads only a part of an output, only that part is fetched. Such an incomplete output is noted, and removed
before another run continues in the folder.
"""

from __future__ import annotations

import shutil

from tasks.runs.dvc_state.cache import remove_damaged
from tasks.runs.dvc_state.outputs import read_needs
from tasks.runs.supervisor import OnLine, run_dvc
from tasks.workspace import Workspace


def fetch_inputs(stage: str, workspace: Workspace, *, limit_s: float, on_line: OnLine) -> bool:
    """Decide whether a stage has to run. If so, fetch the inputs that dvc.lock names.

    Args:
        stage: its name in dvc.yaml.
        workspace: the folder of a run; files that differ are overwritten.
        limit_s: time limit of each step, seconds.
        on_line: called with each line of output.

    Returns:
        Whether the stage has to run.

    Raises:
        StageFailed: an input can't be fetched.
    """
    needs = read_needs(workspace, stage)
    if needs.has_to_run or needs.undecided:
        if damaged := remove_damaged(workspace, stage):
            on_line(f"DVC's cache held damaged files of {', '.join(damaged)}. They are removed and not used.")
            needs = read_needs(workspace, stage)
        _note_partial(workspace, needs.partial)
        for verb, paths in (("checkout", needs.cached), ("pull", needs.remote)):
            if paths:
                arguments = [verb, "--force", "--allow-missing", *paths]
                run_dvc(stage, arguments, workspace, limit_s=limit_s, on_line=on_line)
    return needs.has_to_run or (needs.undecided and read_needs(workspace, stage).has_to_run)


def push(stage: str, workspace: Workspace, paths: list[str], *, limit_s: float, on_line: OnLine) -> None:
    """Send the files that are in the cache, but not on DVC's default remote, to that remote.

    Raises:
        StageFailed: they can't be sent.
    """
    if paths:
        run_dvc(stage, ["push", *paths], workspace, limit_s=limit_s, on_line=on_line)


def remove_partial(workspace: Workspace) -> None:
    """Remove outputs that were fetched only in part."""
    note = workspace.partial_outputs
    for path in note.read_text(encoding="utf-8").splitlines() if note.exists() else []:
        shutil.rmtree(workspace.folder / path, ignore_errors=True)
    note.unlink(missing_ok=True)


def _note_partial(workspace: Workspace, paths: list[str]) -> None:
    new = [path for path in paths if not (workspace.folder / path).exists()]  # the others are complete: made here
    if new:
        workspace.partial_outputs.parent.mkdir(exist_ok=True)
        with workspace.partial_outputs.open("a", encoding="utf-8") as file:
            file.write("".join(f"{path}\n" for path in new))
