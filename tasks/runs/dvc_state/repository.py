"""DVC's view of a workspace, opened and locked, and its stages by their names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.errors import RunError
from tasks.runs.dvc_state.torn_files import restore_torn_lock
from tasks.workspace import Workspace


@contextmanager
def open_repository(workspace: Workspace) -> Iterator[Any]:
    """DVC's view of the workspace, locked against every other `dvc`; waits for the lock and repairs a torn dvc.lock."""
    from dvc.repo import Repo, lock_repo  # takes a second

    with Repo(str(workspace.folder), _wait_for_lock=True) as repository, lock_repo(repository):
        restore_torn_lock(workspace)  # before DVC reads it
        yield repository


def find_stage(repository: Any, name: str) -> Any:
    """A stage of dvc.yaml. DVC's own look-up depends on the current folder.

    Raises:
        RunError: there is no such stage.
    """
    stages = {stage.name: stage for stage in repository.index.stages}
    if name not in stages:
        raise RunError(f"{repository.root_dir}/dvc.yaml has no stage {name}. It has: {', '.join(stages)}")
    return stages[name]
