"""What a power failure leaves in files that were being written: called when all processes of the runs are dead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.soak.project import BRANCH, SoakProject

Tear = Callable[[SoakProject, Random], str | None]


def _cut(path: Path, random: Random) -> str | None:
    """Cut a file that is being written in place. None if there is no such file."""
    if not path.exists() or not path.stat().st_size:
        return None
    length = random.choice((0, random.randrange(path.stat().st_size)))
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.truncate(length)
    return f"{path.name} cut to {length} bytes"


def _worktree(project: SoakProject) -> Path:
    return project.folder / ".rootstock/runs/nightly"


def _git_folder(project: SoakProject) -> Path:
    return project.folder / ".git/worktrees/nightly"


def _left(path: Path) -> str | None:
    """Leave an empty lock, as a program that was killed while it held it."""
    if not path.parent.is_dir():
        return None
    path.touch()
    return f"{path.name} left"


def _tip(project: SoakProject, random: Random) -> str | None:
    """Empty the last commit's object, or the branch."""
    reference = project.folder / f".git/refs/heads/{BRANCH}"
    if not reference.exists() or not reference.read_text().strip():
        return None
    commit = reference.read_text().strip()
    if int(project.git("rev-list", "--count", "--first-parent", f"main..{BRANCH}")) < 3:
        return None
    victim = random.choice((reference, project.folder / f".git/objects/{commit[:2]}/{commit[2:]}"))
    if not victim.exists():
        return None
    victim.chmod(0o600)
    victim.write_bytes(b"")
    return f"{'branch' if victim == reference else 'commit'} {commit[:10]} emptied"


TEARS: dict[str, Tear] = {
    "dvc.lock": lambda project, random: _cut(_worktree(project) / "dvc.lock", random),
    "rwlock": lambda project, random: _cut(_worktree(project) / ".dvc/tmp/rwlock", random),
    "index": lambda project, random: _cut(_git_folder(project) / "index", random),
    "index.lock": lambda project, _: _left(_git_folder(project) / "index.lock"),
    "HEAD.lock": lambda project, _: _left(_git_folder(project) / "HEAD.lock"),
    "lock of the branch": lambda project, _: _left(project.folder / f".git/refs/heads/{BRANCH}.lock"),
    "tip": _tip,
}
