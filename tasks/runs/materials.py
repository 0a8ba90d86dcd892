"""What a stage needs in a run's own folder: brought from the cache or the remote when DVC says that the stage runs.

Of a folder of which it reads a part, only that part is brought. What is there then isn't all that its own stage made,
so it is noted, and goes before another run goes on in the folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.runs.ledger import drop_damaged, outlook
from tasks.runs.supervisor import OnLine, run_dvc

_PARTED = ".rootstock/parted"


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
        if damaged := drop_damaged(folder, stage):
            on_line(f"DVC's cache held wrong bytes of {', '.join(damaged)}. They are removed, and never used.")
            ahead = outlook(folder, stage)
        _note_parted(folder, ahead.parted)
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


def remove_parted(folder: Path) -> None:
    """Remove outputs of which only a part was brought."""
    note = folder / _PARTED
    for path in note.read_text(encoding="utf-8").splitlines() if note.exists() else []:
        shutil.rmtree(folder / path, ignore_errors=True)
    note.unlink(missing_ok=True)


def _note_parted(folder: Path, paths: list[str]) -> None:
    new = [path for path in paths if not (folder / path).exists()]  # else its stage has made it here
    if new:
        (folder / _PARTED).parent.mkdir(exist_ok=True)
        with (folder / _PARTED).open("a", encoding="utf-8") as file:
            file.write("".join(f"{path}\n" for path in new))


def _dvc(stage: str, folder: Path, *arguments: str, limit_s: float, on_line: OnLine) -> None:
    run_dvc(stage, arguments, folder, limit_s=limit_s, on_line=on_line)
