"""The folder of a deployed run: a git worktree apart from a person's working tree, with one commit at the end.

The branch `runs/<name>` holds one commit for each run that changed something: the deployed code with the `params.yaml`,
`dvc.lock` and `reports/metrics.json` of the run. Its first parent is the previous run, so `git log --first-parent` is
the history. The code's commit is the second parent, unless it is an ancestor already. A run that doesn't finish leaves
its folder; the next run with the same name continues in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tasks.errors import RunError
from tasks.files import read_json, write_bytes, write_json
from tasks.runs.dvc_state.cache import share_cache
from tasks.runs.git import NO_COMMIT, git, is_ancestor, need_commit, read_blob, succeeds, tip
from tasks.runs.orphans import stop_orphans
from tasks.runs.run_context import DeployedRun, RunContext, Say, safe_name
from tasks.runs.transfers import remove_partial
from tasks.workspace import LOCK, METRICS, PARAMS, Workspace

RESULTS = (LOCK, METRICS)
"""The files that a run takes from the previous run; params.yaml comes from the deployed commit."""


@contextlib.contextmanager
def run_folder(run: DeployedRun) -> Iterator[RunContext]:
    """A folder for the run, with the results of the previous run. If the block ends well, its results are committed.

    Raises:
        RunError: the commit can't be found, or another run has moved the branch meanwhile.
    """
    with claim_folder(run.clone, run.name) as workspace:
        before = tip(run.clone, run.branch)
        results = _results_of(run, before)
        if is_worktree(workspace.folder):
            note = _read_note(workspace)
            if note.get("before") == before:  # no commit since then
                results = {name: _read(workspace.folder / name) for name in RESULTS}
            ended = note.get("ended") or "it was killed"
            run.say(f"Resumes the unfinished run {note.get('title')} ({ended}); its finished stages are kept.")
        check_out(workspace, run.commit, run.say)
        for name, content in results.items():
            if content is not None:
                write_bytes(workspace.folder / name, content)
        with _noted(run, workspace, before):
            yield RunContext(workspace, run)
            _commit(run, workspace.folder, before)
        remove(workspace)


@contextlib.contextmanager
def claim_folder(clone: Path, name: str) -> Iterator[Workspace]:
    """Claim the first of the folders `<name>`, `<name>.2`, ... that no other process has claimed, for the block.

    The kernel releases the claim however the process ends. A frozen process keeps its claim, so that it can't harm the
    next process.
    """
    runs = Workspace.at(clone).runs
    runs.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = runs / (safe_name(name) + (f".{number}" if number > 1 else ""))
        with folder.with_name(f"{folder.name}.claim").open("a") as claim:
            if _lock(claim):
                yield Workspace(folder, clone)
                return


def check_out(workspace: Workspace, commit: str, say: Say) -> None:
    """Make a claimed folder a worktree of its clone at the commit, with the clone's cache; untracked files stay.

    Processes that a killed run left in it are stopped first.
    """
    folder, clone = workspace.folder, workspace.clone
    need_commit(clone, commit)
    if stopped := stop_orphans(folder):
        say(f"Stopped {stopped} processes that a killed run had left in {folder}.")
    if is_worktree(folder):
        remove_partial(workspace)
        for name in RESULTS:  # git would leave files that the commit doesn't hold
            (folder / name).unlink(missing_ok=True)
        Path(git(folder, "rev-parse", "--path-format=absolute", "--git-path", "index.lock")).unlink(missing_ok=True)
        git(folder, "checkout", "--quiet", "--force", "--detach", commit)
    else:
        remove(workspace)
        git(clone, "worktree", "add", "--quiet", "--force", "--detach", str(folder), commit)
    share_cache(workspace)
    workspace.belong_to(clone)


def remove(workspace: Workspace) -> None:
    """Remove the folder of a run in any state."""
    folder, clone = workspace.folder, workspace.clone
    if folder.exists() and not succeeds(clone, "worktree", "remove", "--force", str(folder)):
        shutil.rmtree(folder)
    git(clone, "worktree", "prune")


def _commit(run: DeployedRun, folder: Path, before: str | None) -> None:
    """Add a commit to the run's branch, unless the run changed nothing.

    The branch must be at the same commit as when the run began. If two runs overlap, which Prefect's limits don't
    allow, the second one is refused.
    """
    git(folder, "add", "--force", "--", *(name for name in (PARAMS, *RESULTS) if (folder / name).exists()))
    tree = git(folder, "write-tree")
    parents = _parents(run, before)
    if tree == git(folder, "rev-parse", f"{parents[0]}^{{tree}}") and len(parents) == 1:
        run.say(f"Nothing new: {run.branch} stays as it is.")
        return
    flags = [part for parent in parents for part in ("-p", parent)]
    commit = git(folder, "commit-tree", tree, *flags, "-m", f"Run {run.name}: {run.title}\n\nCode: {run.commit}")
    if not succeeds(run.clone, "update-ref", f"refs/heads/{run.branch}", commit, before or NO_COMMIT):
        raise RunError(
            f"{run.branch} moved on during this run ({before} is no longer its tip), so the run's result is refused. "
            "The computed files are in DVC's cache: run again."
        )
    run.say(f"Committed {commit[:10]} on {run.branch}.")


def _parents(run: DeployedRun, before: str | None) -> list[str]:
    if before is None or is_ancestor(run.clone, before, run.commit):
        return [run.commit]
    return [before] if is_ancestor(run.clone, run.commit, before) else [before, run.commit]


@contextlib.contextmanager
def _noted(run: DeployedRun, workspace: Workspace, before: str | None) -> Iterator[None]:
    """Keep a note in the folder: which run works in it, and how that run ended if it failed."""
    note: dict[str, Any] = {"title": run.title, "before": before, "ended": None}
    write_json(workspace.run_note, note)
    try:
        yield
    except BaseException as error:
        ended = str(error).splitlines()[0] if isinstance(error, Exception) and str(error) else "it was stopped"
        write_json(workspace.run_note, {**note, "ended": ended})
        run.say(f"{workspace.folder} keeps the finished work; the next run of {run.name} continues from there.")
        raise


def _read_note(workspace: Workspace) -> dict[str, Any]:
    try:
        note: dict[str, Any] = read_json(workspace.run_note)
    except (OSError, ValueError):  # the run was killed before it wrote a note
        return {"title": "before"}
    return note


def _results_of(run: DeployedRun, before: str | None) -> dict[str, bytes | None]:
    """The results of the previous run, unless the deployed commit has them or newer ones."""
    if before is None or is_ancestor(run.clone, before, run.commit):
        return {}
    return {name: read_blob(run.clone, before, name) for name in RESULTS}


def is_worktree(folder: Path) -> bool:
    return (folder / ".git").exists() and (
        succeeds(folder, "rev-parse", "--verify", "-q", "HEAD")
        and Path(git(folder, "rev-parse", "--show-toplevel")) == folder.resolve()
    )


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
