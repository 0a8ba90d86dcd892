"""Shares the history of a deployment among machines: its branch by git's remote, its data by DVC's default remote.

A run begins from the newest commit that the remote has. At its end the data go first, then the branch, and then the
clone's own branch moves: wherever a run is killed, the remote names only data that it has, and the next run goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.errors import RunError, TransientError
from tasks.params import load_settings
from tasks.runs.branches import move_branch, sound_tip
from tasks.runs.dvc_state.cache import has_default_remote
from tasks.runs.git import git, is_ancestor, is_here, is_sound, need_commit
from tasks.runs.run_context import DeployedRun, RunContext
from tasks.runs.transfers import push_all

_PAGE = "docs/versions.md"


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        tip: the last commit of its branch; None if it is the first run.
        remote: git's remote that shares the branch; None if nothing is shared.
        alone: why nothing is shared; empty if it is.
        is_behind: the remote is known to lack the tip.
    """

    tip: str | None
    remote: str | None = None
    alone: str = ""
    is_behind: bool = False


def begin(run: DeployedRun) -> Start:
    """Bring the clone's branch up to date with the remote. If the remote doesn't answer, the run begins without it.

    Raises:
        RunError: the remote refuses to answer, or both histories have commits that the other one lacks.
    """
    tip = sound_tip(run)
    remote, alone = find_remote(run.clone, run.commit)
    if remote is None:
        return Start(tip, alone=alone)
    try:
        there = _fetch(run, remote, tip)
    except TransientError as error:
        run.say(
            f"{remote} doesn't answer, so this run begins from the last run in this clone. If another machine "
            f"has finished a newer run, the result of this one will be refused. {error}"
        )
        return Start(tip, remote)
    if there in (None, tip) or (tip is not None and is_ancestor(run.clone, there, tip)):
        return Start(tip, remote, is_behind=there != tip)
    if tip is not None and not is_ancestor(run.clone, tip, there):
        raise RunError(_describe_fork(run, remote, tip, there))
    move_branch(run, tip, there)
    run.say(f"{run.branch} is now at {there[:10]}, which another run has pushed to {remote}.")
    return Start(there, remote)


def publish(context: RunContext, start: Start, commit: str | None) -> None:
    """Push the data that a run's dvc.lock names, then its commit; nothing if the remote has both.

    Args:
        context: of a deployed run.
        start: where it began.
        commit: of the run; None if it changed nothing.

    Raises:
        RunError: another run has moved the remote's branch on, or the remote refuses the push.
        TransientError: one of the remotes doesn't answer for longer than a run waits.
    """
    run, tip = context.deployed, commit or (start.tip if start.is_behind else None)
    assert run is not None
    if start.alone:
        run.say(f"This copy of the history and its data is the only one: {start.alone}. {_PAGE} says how to share it.")
    if start.remote is None or tip is None:
        return
    settings, remote = load_settings(context.workspace.folder).run, start.remote

    def push() -> None:
        push_all(context.workspace, limit_s=settings.stage_time_limit_s, on_line=run.say)
        _push_branch(run, remote, tip)

    context.outages.outlast(push, settings.outage_limit_s, run.say)
    run.say(f"Pushed {tip[:10]} to {run.branch} on {remote}.")


def find_remote(clone: Path, commit: str) -> tuple[str | None, str]:
    """The remote of git to which a person would push; or None, and the reason why runs of the commit share nothing."""
    need_commit(clone, commit)
    if not has_default_remote(clone, commit):
        return None, "DVC has no default remote"
    names = git(clone, "remote").split()
    chosen = git(clone, "config", "--default", "", "--get", "remote.pushDefault")
    if chosen or "origin" in names:
        return chosen or "origin", ""
    if len(names) == 1:
        return names[0], ""
    return None, "git has several remotes, and remote.pushDefault names none" if names else "git has no remote"


def _fetch(run: DeployedRun, remote: str, tip: str | None) -> str | None:
    """The commit at the tip of the run's branch on the remote, fetched if it isn't the one here."""
    there = _ask_tip(run, remote)
    if there is not None and there != tip:
        # No other reference is written: a lock that a killed git left there can't matter.
        arguments = ("--quiet", "--no-tags", "--no-write-fetch-head", "--refmap=", remote, _reference(run))
        git(run.clone, "fetch", *arguments)
        if not is_sound(run.clone, there):  # git believes that files are here which a power failure damaged
            git(run.clone, "fetch", "--refetch", *arguments)
    return there


def _ask_tip(run: DeployedRun, remote: str) -> str | None:
    lines = [line.split() for line in git(run.clone, "ls-remote", remote, _reference(run)).splitlines()]
    return next((commit for commit, name in lines if name == _reference(run)), None)


def _push_branch(run: DeployedRun, remote: str, commit: str) -> None:
    """Move the remote's branch forward. git and the remote refuse a commit that doesn't continue the remote's tip."""
    try:
        git(run.clone, "push", "--quiet", remote, f"{commit}:{_reference(run)}")
    except RunError as error:
        there = _ask_tip(run, remote)
        if there is None or (is_here(run.clone, there) and is_ancestor(run.clone, there, commit)):
            raise
        raise RunError(
            f"{run.branch} moved on during this run: another run has pushed {there} to {remote}. This result "
            "is refused. The next run starts from there; the computed files are in DVC's cache."
        ) from error


def _reference(run: DeployedRun) -> str:
    return f"refs/heads/{run.branch}"


def _describe_fork(run: DeployedRun, remote: str, tip: str, there: str) -> str:
    counted = ("rev-list", "--first-parent", "--left-right", "--count", f"{tip}...{there}")
    here_only, there_only = git(run.clone, *counted).split()
    return (
        f"The histories of {run.branch} differ. {remote} lacks {here_only} commits of this clone, up to {tip[:10]}; "
        f"this clone lacks {there_only} commits of {remote}, up to {there[:10]}. Decide in {run.clone} which goes on.\n"
        f"That of {remote}: git branch --force {run.branch} {there}\n"
        f"That of this clone: git push {remote} --delete {run.branch}\n"
        "The next run does the rest."
    )
