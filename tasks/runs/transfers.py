"""Fetches outputs of stages into a run's folder when a stage needs them, and pushes outputs to DVC's remote.

If a stage reads only a part of an output, only that part is fetched. Such an incomplete output is noted, and removed
before another run continues in the folder.

DVC's exit code doesn't tell why a transfer failed, so its messages decide. A repeated transfer goes on where the last
one ended: files that have arrived are not sent again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence

from tasks.errors import RunError, TransientError
from tasks.runs.dvc_state.cache import remove_damaged
from tasks.runs.dvc_state.outputs import read_needs
from tasks.runs.outages import tells_of_outage
from tasks.runs.stage_failure import Remedy, StageFailed
from tasks.runs.supervisor import OnLine, run_dvc
from tasks.workspace import Workspace

TRANSFER_TRIES = 3
"""How often a transfer is tried if DVC's messages don't tell whether waiting helps."""
_REFUSED = re.compile(
    r"access ?denied|forbidden|unauthorized|\((401|403)\)|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken"
    r"|NoSuchBucket|locate credentials|authentication|permission denied|no remote specified|config file error"
    r"|no space left|quota exceeded|read-only file system",
    re.IGNORECASE,
)
_ERROR = "ERROR: "


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
                _transfer(stage, arguments, workspace, limit_s, on_line)
    return needs.has_to_run or (needs.undecided and read_needs(workspace, stage).has_to_run)


def fetch_paths(workspace: Workspace, paths: Sequence[str], *, limit_s: float) -> None:
    """Bring outputs, or parts of them, as dvc.lock names them, from the cache or the remote into a folder.

    Raises:
        TransientError: they can't be fetched now.
        RunError: they are nowhere, or the remote refuses.
    """
    if not paths:
        return
    try:
        _transfer("", ["pull", *paths], workspace, limit_s, lambda _line: None)
    except StageFailed as failure:
        kind = RunError if failure.remedy is not Remedy.WAIT else TransientError
        told = f"{failure.reason}.\n{failure.said}"
        raise kind(f"{', '.join(paths)} of {workspace.folder} can't be fetched: {told}") from None


def push(stage: str, workspace: Workspace, paths: list[str], *, limit_s: float, on_line: OnLine) -> None:
    """Send the files that are in the cache, but not on DVC's default remote, to that remote.

    Raises:
        StageFailed: they can't be sent.
    """
    if paths:
        _transfer(stage, ["push", *paths], workspace, limit_s, on_line)


def push_all(workspace: Workspace, *, limit_s: float, on_line: OnLine) -> None:
    """Send all files that dvc.lock names and DVC's default remote lacks.

    Raises:
        TransientError: they can't be sent now.
        RunError: the remote refuses them.
    """
    try:
        _transfer("", ["push"], workspace, limit_s, on_line)
    except StageFailed as failure:
        kind = RunError if failure.remedy is Remedy.FIX else TransientError
        raise kind(f"The data of this run can't be pushed: {failure.reason}.\n{failure.said}") from None


def _transfer(stage: str, arguments: Sequence[str], workspace: Workspace, limit_s: float, on_line: OnLine) -> None:
    errors: list[str] = []

    def note(line: str) -> None:
        if line.startswith(_ERROR):
            errors.append(line.removeprefix(_ERROR))
        on_line(line)

    try:
        run_dvc(stage, arguments, workspace, limit_s=limit_s, on_line=note)
    except StageFailed as failure:
        text = "\n".join(errors)
        if _REFUSED.search(text):
            reason, remedy = "DVC's remote refuses this machine, or is not set up", Remedy.FIX
        elif tells_of_outage(text):
            reason, remedy = "DVC's remote doesn't answer", Remedy.WAIT
        else:
            reason, remedy = failure.reason, Remedy.RETRY
        said = "\n".join(dict.fromkeys([*errors[:1], *errors[-1:]])) or failure.said  # DVC has an error for each file
        raise StageFailed(stage, f"dvc {arguments[0]}: {reason}", said, failure.command, remedy) from None


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
