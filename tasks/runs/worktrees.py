"""The folder of a deployed run: a git worktree apart from a person's working tree, with one commit at the end.

A run that doesn't finish leaves its folder; the next run with the same name continues in it.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.errors import RunError
from tasks.files import read_json, write_bytes, write_json
from tasks.runs.branches import RESULTS, make_commit, move_branch, results_of
from tasks.runs.claims import claimed
from tasks.runs.dvc_state.cache import share_cache
from tasks.runs.dvc_state.outputs import remove_other_versions
from tasks.runs.dvc_state.torn_files import repair_torn_files
from tasks.runs.git import git, git_path, need_commit, succeeds
from tasks.runs.orphans import stop_orphans
from tasks.runs.run_context import DeployedRun, RunContext, Say, safe_name
from tasks.runs.sharing import begin, publish
from tasks.runs.transfers import remove_partial
from tasks.workspace import Workspace


@contextlib.contextmanager
def run_folder(run: DeployedRun) -> Iterator[RunContext]:
    """A folder for the run, with the results of the previous run. If the block ends well, its results are committed.

    Raises:
        RunError: the commit can't be found, or another run has moved the branch meanwhile.
        TransientError: a remote that shares the results doesn't answer.
    """
    with claim_folder(run.clone, run.name) as workspace:
        start = begin(run)
        before = start.tip
        results = results_of(run, before)
        moved_on = False
        if is_worktree(workspace.folder):
            note = read_note(workspace)
            _stop_orphans(workspace, run.say)
            moved_on = note.get("before") != before
            if not moved_on:
                repair_torn_files(workspace)
                results |= {
                    name: content for name in RESULTS if (content := _read(workspace.folder / name)) is not None
                }
            ended = note.get("ended") or "it was killed"
            run.say(f"Resumes the unfinished run {note.get('title')} ({ended}); its finished stages are kept.")
        check_out(workspace, run.commit, run.say)
        for name, content in results.items():
            if content is not None:
                write_bytes(workspace.folder / name, content)
        if moved_on:  # a stage that keeps its output would go on from one that isn't in the history
            remove_other_versions(workspace)
        with _noted(run, workspace, before):
            context = RunContext(workspace, run)
            yield context
            commit = make_commit(run, workspace.folder, before)
            publish(context, start, commit)
            if commit is not None:
                move_branch(run, before, commit)
                run.say(f"Committed {commit[:10]} on {run.branch}.")
        remove(workspace)


@contextlib.contextmanager
def claim_folder(clone: Path, name: str) -> Iterator[Workspace]:
    """Claim the first of the folders `<name>`, `<name>.2`, ... that no other process has claimed, for the block."""
    runs = Workspace.at(clone).runs
    for number in itertools.count(1):
        folder = runs / (safe_name(name) + (f".{number}" if number > 1 else ""))
        with claimed(folder.with_name(f"{folder.name}.claim"), name) as is_mine:
            if is_mine:
                yield Workspace(folder, clone)
                return


def check_out(workspace: Workspace, commit: str, say: Say) -> None:
    """Make a claimed folder a worktree of its clone at the commit, with the clone's cache; untracked files stay.

    Processes that a killed run left in it are stopped first.
    """
    folder, clone = workspace.folder, workspace.clone
    need_commit(clone, commit)
    _stop_orphans(workspace, say)
    if not (is_worktree(folder) and _switch(workspace, commit, say)):
        remove(workspace)
        git(clone, "worktree", "add", "--quiet", "--force", "--detach", str(folder), commit)
    share_cache(workspace)
    workspace.belong_to(clone)


def remove(workspace: Workspace) -> None:
    """Remove the folder of a run in any state, and git's record of it; other worktrees stay as they are."""
    folder = workspace.folder
    if folder.exists():
        shutil.rmtree(folder)
    for record in git_path(workspace.clone, "worktrees").glob("*/gitdir"):
        if Path(record.read_text(encoding="utf-8").strip()) == folder / ".git":
            shutil.rmtree(record.parent)


def _switch(workspace: Workspace, commit: str, say: Say) -> bool:
    """Check out a commit in a worktree, whatever a killed git has left there. Returns whether that was possible."""
    folder = workspace.folder
    remove_partial(workspace)
    for name in RESULTS:  # git would leave files that the commit doesn't hold
        (folder / name).unlink(missing_ok=True)
    try:
        removed = git(folder, "diff", "--name-only", "--no-renames", "--diff-filter=D", "-z", "HEAD", commit)
        for name in filter(None, removed.split("\0")):
            (folder / name).unlink(missing_ok=True)
        for name in ("index", "index.lock", "HEAD.lock"):
            git_path(folder, name).unlink(missing_ok=True)
        git(folder, "checkout", "--quiet", "--force", "--detach", commit)
    except RunError as error:
        say(f"{folder} is made anew, because git can't use it. {error}")
        return False
    return True


def _stop_orphans(workspace: Workspace, say: Say) -> None:
    if stopped := stop_orphans(workspace.folder):
        say(f"Stopped {stopped} processes that a killed run had left in {workspace.folder}.")


@contextlib.contextmanager
def _noted(run: DeployedRun, workspace: Workspace, before: str | None) -> Iterator[None]:
    """Keep a note in the folder: which run works in it, and how that run ended if it failed."""
    note: dict[str, Any] = {"title": run.title, "branch": run.branch, "before": before, "ended": None}
    write_json(workspace.run_note, note)
    try:
        yield
    except BaseException as error:
        ended = str(error).splitlines()[0] if isinstance(error, Exception) and str(error) else "it was stopped"
        write_json(workspace.run_note, {**note, "ended": ended})
        run.say(f"{workspace.folder} keeps the finished work; the next run of {run.name} continues from there.")
        raise


def read_note(workspace: Workspace) -> dict[str, Any]:
    """What a run noted in its folder: its title and branch, the branch's tip when it began, and how it ended."""
    try:
        note: dict[str, Any] = read_json(workspace.run_note)
    except (OSError, ValueError):  # the run was killed before it wrote a note
        return {"title": "before"}
    return note


def is_worktree(folder: Path) -> bool:
    """Whether git knows a folder as the top of a working tree."""
    try:
        return (folder / ".git").exists() and (
            succeeds(folder, "rev-parse", "--verify", "-q", "HEAD")
            and Path(git(folder, "rev-parse", "--show-toplevel")) == folder.resolve()
        )
    except RunError:  # the folder is damaged
        return False


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
