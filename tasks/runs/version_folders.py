"""The folder of a version: a git worktree at its commit, in which outputs are hard links to files of DVC's cache.

So nothing is copied on one disk, and what the cache lacks comes from DVC's remote.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from tasks.runs.dvc_state.cache import link_to_cache
from tasks.runs.run_context import Say
from tasks.runs.transfers import fetch_paths, push_all
from tasks.runs.worktrees import check_out, claim_folder, remove
from tasks.workspace import Workspace

_NAME = "champion-version"
_LIMIT_S = 86400.0


@contextlib.contextmanager
def version_folder(clone: Path, commit: str, paths: Sequence[str], say: Say) -> Iterator[Workspace]:
    """The folder of a commit's version during the block, with some of its outputs. They are read-only.

    Args:
        clone: of the repository.
        commit: of the version.
        paths: outputs, or parts of outputs; those that dvc.lock doesn't name are missing.
        say: tells a person a line.

    Raises:
        RunError: an output is neither in the cache nor on the remote, or the remote refuses.
        TransientError: the remote doesn't answer.
    """
    with claim_folder(clone, _NAME) as workspace:
        check_out(workspace, commit, say)
        link_to_cache(workspace)
        try:
            add_outputs(workspace, paths)
            yield workspace
        finally:
            remove(workspace)


def add_outputs(workspace: Workspace, paths: Sequence[str]) -> None:
    """Bring more outputs into the folder of a version; see `version_folder`."""
    stages = yaml.safe_load(workspace.lock.read_text(encoding="utf-8"))["stages"].values()
    made = [Path(out["path"]) for stage in stages for out in stage.get("outs", ())]
    known = [path for path in paths if any(Path(path).is_relative_to(out) for out in made)]
    fetch_paths(workspace, known, limit_s=_LIMIT_S)


def push_version(clone: Path, commit: str, say: Say) -> None:
    """Send what a commit's dvc.lock names and DVC's default remote lacks. What is there already takes a look only.

    Raises:
        RunError: the remote refuses it.
        TransientError: the remote doesn't answer.
    """
    with claim_folder(clone, _NAME) as workspace:
        check_out(workspace, commit, say)
        link_to_cache(workspace)
        push_all(workspace, limit_s=_LIMIT_S, on_line=lambda _line: None)
        remove(workspace)
