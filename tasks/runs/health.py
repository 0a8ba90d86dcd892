"""The health of a clone: locks and files that killed programs left, the branches and folders of runs, the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tasks.errors import RunError
from tasks.files import TEMPORARY_SUFFIX, is_abandoned, read_json, sweep_temporaries
from tasks.runs.branches import sound_tip
from tasks.runs.findings import MEND, Finding
from tasks.runs.git import git, git_path, is_sound, succeeds, tip
from tasks.runs.run_context import DeployedRun, safe_name
from tasks.workspace import Workspace

STALE_S = 60.0
"""A lock of git that is this old, while no git works in the clone, was left by a killed one."""
LEAST_FREE_BYTES = 2_000_000_000
_HOOKS_PATH = ("config", "--local", "--get", "core.hooksPath")
_HOOKS = ("post-checkout", "pre-commit", "commit-msg", "post-commit", "post-merge", "pre-push")


def check_locks(workspace: Workspace) -> Iterator[Finding]:
    """Locks of git that nobody holds any more: each blocks some command of git for ever."""
    common = git_path(workspace.clone, "refs").parent
    found = [*common.glob("*.lock"), *common.glob("refs/**/*.lock"), *common.glob("worktrees/*/*.lock")]
    stale = [lock for lock in found if _age_s(lock) > STALE_S]
    if stale and _git_works_in(workspace.clone):
        yield Finding(f"git works in this clone, so its {len(stale)} old locks were not judged.")
        return
    for lock in stale:
        yield Finding(f"A killed git left {lock}.", MEND, partial(_removed, lock))
    if not stale:
        yield Finding("no command of git is blocked by a lock")


def check_temporaries(workspace: Workspace) -> Iterator[Finding]:
    """Unfinished files of killed programs; programs that start in their folders remove them, too."""
    written = Workspace.at(workspace.clone).written_folders()
    every = (path for folder in written for path in folder.rglob(f".*{TEMPORARY_SUFFIX}"))
    folders = sorted({path.parent for path in every if is_abandoned(path)})
    if not folders:
        yield Finding("no unfinished file of a killed program")
        return

    def repair() -> str:
        return f"{sum(map(sweep_temporaries, folders))} removed."

    yield Finding(f"Killed programs left unfinished files in {', '.join(map(str, folders[:3]))}.", MEND, repair)


def check_folders(workspace: Workspace) -> Iterator[Finding]:
    """The folders of unfinished runs, and git's records of working trees that are gone."""
    for note in sorted(workspace.runs.glob("*/.rootstock/run.json")):
        about: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            about = read_json(note)
        title, ended = about.get("title", "of an unknown run"), about.get("ended") or "it runs, or was killed"
        yield Finding(f"{note.parents[1]} holds the run {title} ({ended}); the next run of that name continues there")
    records = git_path(workspace.clone, "worktrees").glob("*/gitdir")
    gone = [record for record in records if not Path(record.read_text(encoding="utf-8").strip()).exists()]
    for record in gone:
        folder = Path(record.read_text(encoding="utf-8").strip()).parent
        if folder.is_relative_to(workspace.runs):
            yield Finding(
                f"git remembers the folder {folder} of a run, which is gone.",
                MEND,
                partial(_removed, record.parent),
            )
        else:
            yield Finding(f"your worktree {folder} isn't there; if it is gone for good: git worktree prune")
    if not gone:
        yield Finding("git knows no folder that is gone")


def check_branches(workspace: Workspace) -> Iterator[Finding]:
    """The branches of runs: every tip can be read, and so can all that it leads to."""
    clone = workspace.clone
    heads = git_path(clone, "refs/heads")
    names = {path.relative_to(heads).as_posix() for path in (heads / "runs").rglob("*") if path.is_file()}
    names |= set(git(clone, "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads/runs/").split())
    names = {name for name in names if not name.endswith(".lock")}
    broken = [name for name in sorted(names) if not _has_sound_tip(clone, name)]
    for name in broken:
        yield Finding(f"The branch {name} is damaged.", MEND, partial(_set_back, clone, name.removeprefix("runs/")))
    if broken:
        return
    try:
        if names:
            git(clone, "fsck", "--connectivity-only", "--no-dangling", "--no-progress", *sorted(names))
    except RunError:
        yield Finding(
            "Earlier commits of the branches of runs are damaged; git fsck --connectivity-only says what is missing.",
            "git fetch --refetch REMOTE, from a remote or a clone that has them",
        )
    else:
        yield Finding(f"{len(names)} branches of runs, all of them whole" if names else "no run has made one yet")


def check_hooks(workspace: Workspace) -> Iterator[Finding]:
    """The hooks of git: they act only on a person's own commands, and may slow them."""
    hooks = git_path(workspace.clone, "refs").parent / "hooks"
    if succeeds(workspace.clone, *_HOOKS_PATH):
        hooks = workspace.clone / Path(git(workspace.clone, *_HOOKS_PATH)).expanduser()
    active = [name for name in _HOOKS if os.access(hooks / name, os.X_OK)]
    told = f"your own commands of git run the hooks {', '.join(active)}; runs don't" if active else "no hooks"
    yield Finding(told)


def check_disk(workspace: Workspace) -> Iterator[Finding]:
    """Free disk space where this clone is."""
    free = shutil.disk_usage(workspace.clone).free
    if free < LEAST_FREE_BYTES:
        yield Finding(f"Only {free / 1e9:.1f} GB are free on the disk of {workspace.clone}.", "make tidy")
    else:
        yield Finding(f"{free / 1e9:.1f} GB are free")


def _age_s(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):  # it was released
        return time.time() - path.stat().st_mtime
    return 0.0


def _git_works_in(clone: Path) -> bool:
    for process in psutil.process_iter(["name", "cwd"]):
        name, folder = process.info["name"] or "", process.info["cwd"]
        if name.startswith("git") and folder and Path(folder).is_relative_to(clone.resolve()):
            return True
    return False


def _removed(path: Path) -> str:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return "removed."


def _has_sound_tip(clone: Path, name: str) -> bool:
    try:
        commit = tip(clone, name)
    except RunError:
        return False
    return commit is not None and is_sound(clone, commit)


def _set_back(clone: Path, name: str) -> str:
    if safe_name(name) != name:
        raise RunError(f"runs/{name} is no branch of a deployment's runs")
    said: list[str] = []
    sound_tip(DeployedRun(clone, name, "", "make doctor", said.append))
    return " ".join(said)
