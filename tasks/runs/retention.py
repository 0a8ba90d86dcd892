"""Which commits keep their data in DVC's cache, and why.

Kept are the last runs of each branch `runs/*`; on all other branches, those of remotes too, every commit by a person
that changed dvc.lock; the tip of every other reference, such as tags, so all registered versions, and experiments of
DVC; and the commits that working trees have checked out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasks.runs.git import git
from tasks.workspace import LOCK

RUNS = "runs/"
_KINDS = {
    "tags": "tagged versions",
    "heads": "versions on other branches",
    "remotes": "versions on other branches of remotes",
}
_MADE_BY_A_RUN = "^Code: [0-9a-f]{40}$"
_FORMAT = "%(refname) %(if)%(*objectname)%(then)%(*objecttype) %(*objectname)%(else)%(objecttype) %(objectname)%(end)"


def kept_commits(clone: Path, kept_runs: int) -> dict[str, list[str]]:
    """The commits whose data stay, by the reason.

    Args:
        clone: of the repository.
        kept_runs: number of runs that each branch `runs/*` keeps.

    Raises:
        RunError: git can't read the references.
    """
    kept: dict[str, list[str]] = {}
    for line in git(clone, "for-each-ref", f"--format={_FORMAT}").splitlines():
        reference, *peeled = line.split()
        _, kind, name = reference.split("/", 2) if reference.count("/") > 1 else ("", "", reference)
        if peeled[:1] != ["commit"]:
            continue
        if is_of_runs(kind, name):
            runs = last_runs(clone, reference, kept_runs)
            kept[f"the last {len(runs)} runs of {name}"] = runs
        else:
            kept.setdefault(_KINDS.get(kind, "other references"), []).append(peeled[1])
            if kind in ("heads", "remotes"):
                kept[_KINDS[kind]] += _committed_by_people(clone, reference)
    checked_out = [line.split()[1] for line in _worktrees(clone) if line.startswith("HEAD ")]
    return {**kept, "checked out": checked_out}


def is_of_runs(kind: str, name: str) -> bool:
    """Whether a reference of the kind `heads` or `remotes` is a branch of runs, here or of another clone."""
    return (kind == "heads" and name.startswith(RUNS)) or (
        kind == "remotes" and name.partition("/")[2].startswith(RUNS)
    )


def last_runs(clone: Path, reference: str, count: int) -> list[str]:
    """The tip, and the last commits that changed the results, the newest first."""
    history = ("rev-list", "--first-parent", f"--max-count={count}", reference)
    return list(dict.fromkeys([git(clone, "rev-parse", reference), *git(clone, *history, "--", LOCK).split()]))[:count]


def _committed_by_people(clone: Path, reference: str) -> list[str]:
    """The commits behind a reference that changed the results, without those of runs that a person has merged."""
    no_runs = ("--extended-regexp", "--invert-grep", f"--grep={_MADE_BY_A_RUN}")
    return git(clone, "rev-list", "--full-history", "--no-merges", *no_runs, reference, "--", LOCK).split()


def _worktrees(clone: Path) -> list[str]:
    listed = git(clone, "worktree", "list", "--porcelain").splitlines()
    return [line for line in listed if not line.endswith("0" * 40)]  # before the first commit


def describe(kept: Mapping[str, list[str]]) -> str:
    """The reasons in words, such as `the last 30 runs of runs/nightly; tagged versions (4)`."""
    told = [name if name.startswith("the ") else f"{name} ({len(set(commits))})" for name, commits in kept.items()]
    return "; ".join(told)
