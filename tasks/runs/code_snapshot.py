"""The code of a commit in its own folder, so that unfinished edits in the working tree don't reach deployed runs."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from tasks.errors import RunError
from tasks.files import atomic_folder
from tasks.runs.git import git, git_environment, need_commit
from tasks.workspace import Workspace

_KEPT = 10


def unpack(clone: Path, commit: str) -> Path:
    """The folder with all tracked files of a commit; it is created if it isn't there.

    Args:
        clone: of the repository.
        commit: its full name, 40 hexadecimal digits.

    Raises:
        RunError: the commit is neither here nor on a remote.
        TransientError: a remote doesn't answer.
    """
    need_commit(clone, commit)
    folder = Workspace.at(clone).code / git(clone, "rev-parse", f"{commit}^{{commit}}")
    if not folder.exists():
        with (
            atomic_folder(folder) as made,
            tarfile.open(fileobj=io.BytesIO(_archive(clone, commit))) as tar,
        ):
            tar.extractall(made, filter="data")
        _sweep(folder)
    folder.touch()  # the most recently used folders are kept
    return folder


def _archive(clone: Path, commit: str) -> bytes:
    top = git(clone, "rev-parse", "--show-toplevel")
    command = ["git", "archive", "--format=tar", commit]
    result = subprocess.run(command, cwd=top, env=git_environment(), capture_output=True, check=False)
    if result.returncode:
        raise RunError(f"git archive {commit} failed in {clone}: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout


def _sweep(newest: Path) -> None:
    """Keep the last few commits only; a run of an older commit has imported its modules by now.

    The newest folder is an argument, because it looks like the oldest one after the clock was set back.
    """
    others = (one for one in newest.parent.iterdir() if one.is_dir() and one != newest)
    by_age = sorted(others, key=lambda one: one.stat().st_mtime_ns)
    for old in by_age[: 1 - _KEPT]:
        shutil.rmtree(old, ignore_errors=True)
