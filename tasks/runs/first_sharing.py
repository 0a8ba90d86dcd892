"""Versions that a clone registered alone, before its git had a remote: the remote gets them with the first change."""

from __future__ import annotations

from pathlib import Path

from tasks.errors import RunError
from tasks.runs.dvc_state.cache import has_default_remote
from tasks.runs.git import git
from tasks.runs.registry import TAGS, Registry
from tasks.runs.run_context import Say
from tasks.runs.version_folders import push_version


def share_old_entries(clone: Path, remote: str, registry: Registry, say: Say) -> None:
    """Push all tags of the registry if the remote has none: the data of their commits first, then all tags at once.

    A version whose data can't be pushed stays here, and is told. If the remote has tags, what only this clone has was
    deleted there, or made by a clone that knew better.

    Raises:
        RunError: the remote refuses the tags.
        TransientError: a remote doesn't answer.
    """
    if not registry.entries or git(clone, "ls-remote", remote, *TAGS):
        return
    shared = {commit for commit in dict.fromkeys(one.commit for one in registry.entries) if _push(clone, commit, say)}
    tags = [f"refs/tags/{one.tag}" for one in registry.entries if one.commit in shared]
    if tags:
        git(clone, "push", "--quiet", "--atomic", remote, *(f"{tag}:{tag}" for tag in tags))
        say(f"Pushed the registry of this clone, {len(tags)} tags, to {remote}.")


def _push(clone: Path, commit: str, say: Say) -> bool:
    problem = "its commit names no remote of DVC"
    if has_default_remote(clone, commit):
        try:
            push_version(clone, commit, say)
            return True
        except RunError as error:
            problem = str(error)
    say(f"The model of {commit[:10]} stays in this clone: {problem}")
    return False
