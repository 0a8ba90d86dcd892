"""Entries of dvc.lock from other machines: read there, merged here, refused if they are late or don't fit."""

from __future__ import annotations

import json
from typing import Any

from tasks.errors import RunError
from tasks.files import write_bytes
from tasks.runs.dvc_state.changes import find_reasons
from tasks.runs.dvc_state.repository import find_stage, open_repository
from tasks.workspace import Workspace

LockEntry = dict[str, Any]


def read_lock_entry(workspace: Workspace, stage: str) -> LockEntry:
    """A stage's entry in dvc.lock, as plain values, read by DVC's parser: for PyYAML, `1e-05` is not a number.

    Raises:
        RunError: there is no entry.
    """
    from dvc.utils.serialize import load_yaml

    stages = (load_yaml(str(workspace.lock)) if workspace.lock.exists() else {}).get("stages", {})
    if stage not in stages:
        raise RunError(f"{workspace.lock} has no entry for {stage}: the stage hasn't run there.")
    return dict(stages[stage])


def begin_attempt(workspace: Workspace, stage: str, token: str) -> None:
    """From now on, accept only the result with this token for the stage."""
    write_bytes(workspace.attempts / stage, token.encode())


def merge_lock_entry(workspace: Workspace, stage: str, entry: LockEntry, token: str) -> None:
    """Write the result of an attempt on another machine into dvc.lock, by DVC's own serializer and under DVC's lock.

    Raises:
        RunError: the attempt was given up meanwhile, or the result comes from other inputs than those of this
            workspace; dvc.lock is unchanged.
    """
    from dvc.utils.serialize import modify_yaml

    with open_repository(workspace) as repository:
        current = (workspace.attempts / stage).read_text(encoding="utf-8")
        if token != current:
            raise RunError(
                f"A late result for stage {stage} is refused: it comes from attempt {token}, which was given up; "
                f"the current attempt is {current}."
            )
        before = workspace.lock.read_bytes()
        with modify_yaml(str(workspace.lock)) as lock:
            lock["stages"][stage] = json.loads(json.dumps(entry))
        repository._reset()  # DVC has the old file in memory
        merged = find_stage(repository, stage)
        for out in merged.outs:
            if out.exists and out.changed_checksum():
                out.remove()  # the previous version
        if reasons := find_reasons(repository, merged):
            write_bytes(workspace.lock, before)
            raise RunError(
                f"The result for stage {stage} doesn't fit this workspace: the stage would have to run again "
                f"({'; '.join(reasons)}). The worker has another commit, other settings or other inputs. "
                "Deploy again (prefect deploy --all) and run again."
            )
