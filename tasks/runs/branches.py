"""The history of a deployment: the branch `runs/<name>`, with one commit for each run that changed something.

A commit has the deployed code with the `params.yaml`, `dvc.lock` and `reports/metrics.json` of the run. Its first
parent is the previous run, so `git log --first-parent` is the history. The code's commit is the second parent, unless
it is an ancestor already.
"""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from tasks.errors import RunError
from tasks.files import write_bytes
from tasks.runs.git import NO_COMMIT, git, git_path, is_ancestor, is_sound, read_blob, remove_damaged_objects, tip
from tasks.runs.run_context import DeployedRun
from tasks.workspace import LOCK, METRICS, PARAMS

RESULTS = (LOCK, METRICS)
"""The files that a run takes from the previous run; params.yaml comes from the deployed commit."""
_STALE_S = 60.0
"""git holds the lock of a branch for milliseconds: a lock that is this old was left by a killed git."""


def sound_tip(run: DeployedRun) -> str | None:
    """The commit at the tip of the run's branch; None if there is no such branch.

    If a power failure damaged the branch or its last commit, the branch is set back to its last sound commit.

    Raises:
        RunError: it has none.
    """
    commit = tip(run.clone, run.branch)
    if commit is not None and is_sound(run.clone, commit):
        return commit
    reference = git_path(run.clone, f"refs/heads/{run.branch}")
    if commit is None and not reference.exists():
        return None
    remove_damaged_objects(run.clone)
    log = git_path(run.clone, f"logs/refs/heads/{run.branch}")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    earlier = next((one for line in reversed(lines) for one in line.split()[1::-1] if is_sound(run.clone, one)), None)
    if earlier is None:
        raise RunError(
            f"The branch {run.branch} is damaged, and its log names no sound commit. Remove it: the next run "
            "fetches the branch from git's remote if it is there, else it begins a new history: "
            f"rm {shlex.quote(str(reference))}"
        )
    write_bytes(reference, f"{earlier}\n".encode())
    run.say(f"{run.branch} was damaged ({commit or 'empty'}). It is set back to its last sound commit, {earlier[:10]}.")
    return earlier


def results_of(run: DeployedRun, before: str | None) -> dict[str, bytes | None]:
    """The results of the previous run, unless the deployed commit has them or newer ones."""
    if before is None or is_ancestor(run.clone, before, run.commit):
        return {}
    return {name: read_blob(run.clone, before, name) for name in RESULTS}


def make_commit(run: DeployedRun, folder: Path, before: str | None) -> str | None:
    """Make the commit of a run, on no branch yet. Returns None if the run changed nothing."""
    git(folder, "add", "--force", "--", *(name for name in (PARAMS, *RESULTS) if (folder / name).exists()))
    tree = git(folder, "write-tree")
    parents = _parents(run, before)
    if tree == git(folder, "rev-parse", f"{parents[0]}^{{tree}}") and len(parents) == 1:
        run.say(f"Nothing new: {run.branch} stays as it is.")
        return None
    flags = [part for parent in parents for part in ("-p", parent)]
    return git(folder, "commit-tree", tree, *flags, "-m", f"Run {run.name}: {run.title}\n\nCode: {run.commit}")


def move_branch(run: DeployedRun, before: str | None, commit: str) -> None:
    """Move the run's branch from one commit to the next.

    The branch must be at the same commit as when the run began. If two runs overlap, which Prefect's limits don't
    allow, the second one is refused.
    """
    move = ("update-ref", "--create-reflog", f"refs/heads/{run.branch}", commit, before or NO_COMMIT)
    try:
        git(run.clone, *move)
    except RunError:
        if tip(run.clone, run.branch) != before:
            raise RunError(
                f"{run.branch} moved on during this run ({before} is no longer its tip), so the run's result is "
                "refused. The computed files are in DVC's cache: run again."
            ) from None
        lock = git_path(run.clone, f"refs/heads/{run.branch}.lock")
        if not lock.exists() or time.time() - lock.stat().st_mtime < _STALE_S:
            raise
        run.say(f"Removed {lock}, which a killed git had left.")
        lock.unlink()
        git(run.clone, *move)


def _parents(run: DeployedRun, before: str | None) -> list[str]:
    if before is None or is_ancestor(run.clone, before, run.commit):
        return [run.commit]
    return [before] if is_ancestor(run.clone, run.commit, before) else [before, run.commit]
