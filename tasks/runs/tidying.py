"""Deletes what nothing needs any more from a clone: old versions in DVC's cache, dead run folders, loose git objects,
and what exports have kept but not used again.

Runs and tidying exclude each other by a claim: runs hold it together, tidying holds it alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import RunError
from tasks.markdown_tables import size
from tasks.runs.claims import claimed
from tasks.runs.costs import shorten_history
from tasks.runs.dvc_state.garbage import Garbage, collect_garbage, collect_remote
from tasks.runs.git import git, tip
from tasks.runs.retention import describe, kept_commits
from tasks.runs.run_context import Say
from tasks.runs.worktrees import is_worktree, read_note, remove
from tasks.workspace import Workspace

TIDYING = "make tidy"
UNUSED_DAYS = 14.0
"""What exports and watches keep goes after that many days without use. Other code and packages keep other entries."""


@dataclass(frozen=True)
class Tidied:
    """What tidying freed, or would free, and what it kept.

    Attributes:
        garbage: in DVC's cache.
        folders: folders of runs that can't be continued.
        folders_mb: their size, MB.
        unused: names of entries of `Workspace.kept_exports` and `Workspace.watches`.
        unused_mb: their size, MB.
        kept: the reasons, in words.
    """

    garbage: Garbage
    folders: list[str]
    folders_mb: float
    unused: list[str]
    unused_mb: float
    kept: str

    @property
    def freed_mb(self) -> float:
        return self.garbage.size_mb + self.folders_mb + self.unused_mb


def keep_untidied(workspace: Workspace, title: str, say: Say) -> AbstractContextManager[bool]:
    """Keep others from tidying the clone during the block. Waits for one that has begun."""
    return claimed(
        workspace.tidy_claim,
        title,
        shared=True,
        on_wait=lambda holder: say(f"Waits for `{holder}`, which deletes old data in this clone."),
    )


def keep_untidied_here(workspace: Workspace, say: Say) -> AbstractContextManager[bool]:
    """Keep others from tidying while `make run` works in a person's folder."""
    return keep_untidied(workspace, f"make run in {workspace.folder}", say)


def tidying(workspace: Workspace, on_wait: Callable[[str], None] | None) -> AbstractContextManager[bool]:
    """The claim for `tidy`. Without `on_wait` it isn't waited for; the value says whether it is held."""
    return claimed(workspace.tidy_claim, TIDYING, on_wait=on_wait)


def tidy(workspace: Workspace, kept_runs: int, *, dry: bool = False) -> Tidied:
    """Delete what nothing needs; the caller holds the claim of `tidying`, unless it is dry.

    Args:
        workspace: of a clone.
        kept_runs: number of runs whose data each branch `runs/*` keeps.
        dry: only measure.

    Raises:
        RunError: what is needed can't be told; nothing is deleted then.
    """
    clone = Workspace.at(workspace.clone)
    kept = kept_commits(clone.folder, kept_runs)
    unfinished, dead = _sorted_folders(clone)
    commits = [commit for some in kept.values() for commit in some]
    garbage = collect_garbage(clone, commits, unfinished, dry=dry)
    folders_mb = sum(_size_mb(one.folder) for one in dead)
    unused = _unused(clone)
    unused_mb = sum(map(_size_mb, unused))
    if not dry:
        for entry in unused:
            shutil.rmtree(entry, ignore_errors=True)
        for one in dead:
            remove(one)
        shorten_history(clone)
        _collect_git(clone.folder)
    told = [describe(kept), "the working tree", *(f"the unfinished run in {one.folder}" for one in unfinished)]
    names = [entry.name for entry in unused]
    return Tidied(garbage, [str(one.folder) for one in dead], folders_mb, names, unused_mb, "; ".join(told))


def tidy_remote(workspace: Workspace, kept_runs: int, *, dry: bool = False) -> int:
    """Delete the same from DVC's remote, as far as the branches of all clones allow. Returns the number of files.

    Branches are fetched first. Runs of other clones must not be active: they push their data before their branch.

    Raises:
        RunError: git's remotes can't be fetched, or it isn't known what is needed; nothing is deleted then.
    """
    clone = Workspace.at(workspace.clone)
    if not git(clone.folder, "remote"):
        raise RunError("Nothing was deleted on the remote: git has no remote, so it isn't known what others need.")
    git(clone.folder, "fetch", "--quiet", "--all", "--tags")
    commits = [commit for some in kept_commits(clone.folder, kept_runs).values() for commit in some]
    return collect_remote(clone, commits, _sorted_folders(clone)[0], dry=dry)


def tidy_after(workspace: Workspace, kept_runs: int, say: Say) -> None:
    """Tidy after a run, if no other run is active. A failure is one line, because the run itself has succeeded."""
    try:
        with tidying(workspace, None) as is_mine:
            if is_mine and (done := tidy(workspace, kept_runs)).freed_mb:
                say(f"Tidied: {describe_freed(done)}.")
    except Exception as error:  # noqa: BLE001
        say(f"Tidying failed, and the run is not affected: {type(error).__name__}: {' '.join(str(error).split())}")


def describe_freed(done: Tidied) -> str:
    """What was freed, in words, such as `1.2 GB in DVC's cache (420 files)`."""
    told = [f"{size(done.garbage.size_mb)} in DVC's cache ({done.garbage.objects:,} files)"]
    if done.folders:
        told.append(f"{size(done.folders_mb)} of runs that can't be continued ({', '.join(done.folders)})")
    if done.unused:
        told.append(f"{size(done.unused_mb)} of exports and watches that nothing has used for {UNUSED_DAYS:g} days")
    return " and ".join(told)


def _sorted_folders(clone: Workspace) -> tuple[list[Workspace], list[Workspace]]:
    """The folders of unfinished runs, and of runs that can't be continued: git or the branch has moved on."""
    unfinished: list[Workspace] = []
    dead: list[Workspace] = []
    for folder in sorted(clone.runs.iterdir()) if clone.runs.is_dir() else []:
        if folder.is_dir() and not folder.is_symlink():
            (unfinished if _can_be_continued(clone, folder) else dead).append(Workspace(folder, clone.folder))
    return unfinished, dead


def _can_be_continued(clone: Workspace, folder: Path) -> bool:
    if not is_worktree(folder):
        return False
    note = read_note(Workspace(folder, clone.folder))
    return "branch" not in note or tip(clone.folder, note["branch"]) == note["before"]


def _unused(clone: Workspace) -> list[Path]:
    """Entries that no export has read and no watch has written for a while; reading one renews its time."""
    oldest = time.time() - 86_400 * UNUSED_DAYS
    entries = (entry for kept in (clone.kept_exports, clone.watches) for entry in sorted(kept.glob("*")))
    return [entry for entry in entries if entry.stat().st_mtime < oldest]


def _size_mb(folder: Path) -> float:
    files = (path.lstat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(stat.st_size for stat in files if stat.st_nlink == 1) / 1e6


def _collect_git(clone: Path) -> None:
    """Pack git's loose objects once there are thousands, as git itself does after a person's commands."""
    settings = ("gc.autoDetach=false", "gc.worktreePruneExpire=never")  # a person's worktree may be on another disk
    git(clone, *(part for one in settings for part in ("-c", one)), "gc", "--auto", "--quiet")
