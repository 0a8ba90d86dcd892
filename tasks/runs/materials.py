"""What a stage needs in a run's own folder: brought from the cache or the remote when DVC says that the stage runs."""

from __future__ import annotations

from pathlib import Path

from tasks.runs.ledger import outlook
from tasks.runs.supervisor import OnLine, run_dvc


def make_ready(stage: str, folder: Path, *, limit_s: float, on_line: OnLine) -> bool:
    """Whether a stage has to run; if so, all that dvc.lock names of what it needs is in the folder.

    Args:
        stage: its name in dvc.yaml.
        folder: a run's own: what differs there is overwritten.
        limit_s: time limit of each step, seconds.
        on_line: gets the lines of output.

    Raises:
        StageFailed: something can't be brought.
    """
    ahead = outlook(folder, stage)
    if ahead.would_run or ahead.undecided:
        for verb, paths in (("checkout", ahead.cached), ("pull", ahead.remote)):
            if paths:
                _dvc(stage, folder, verb, "--force", "--allow-missing", *paths, limit_s=limit_s, on_line=on_line)
    return ahead.would_run or (ahead.undecided and outlook(folder, stage).would_run)


def share(stage: str, folder: Path, paths: list[str], *, limit_s: float, on_line: OnLine) -> None:
    """Put what the cache holds, and the remote doesn't, onto the remote that is DVC's default.

    Raises:
        StageFailed: it can't be sent.
    """
    if paths:
        _dvc(stage, folder, "push", *paths, limit_s=limit_s, on_line=on_line)


def _dvc(stage: str, folder: Path, *arguments: str, limit_s: float, on_line: OnLine) -> None:
    run_dvc(stage, arguments, folder, limit_s=limit_s, on_line=on_line)
