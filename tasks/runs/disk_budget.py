"""Refuses a run whose plan needs more disk space than is free, before it works, and says what frees how much."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from tasks.errors import RootstockError, StorageError
from tasks.markdown_tables import size
from tasks.runs.dvc_state.cache import cache_folder, shares_blocks
from tasks.runs.planning import Step
from tasks.runs.tidying import tidy
from tasks.workspace import Workspace

FLOOR_MB = 100.0
"""A run whose stages have no earlier runs needs an unknown space. With less than this it would hardly begin."""


def check_disk(steps: Sequence[Step], workspace: Workspace, kept_runs: int) -> None:
    """Check that the stages of a plan that will run have room: in the workspace, and again in DVC's cache.

    Stages that may run, or whose need isn't known, count as nothing.

    Raises:
        StorageError: they don't have it.
    """
    running = [step for step in steps if step.verdict == "runs"]
    if not running:
        return
    known = {step.stage: step.disk_mb for step in running if step.disk_mb}
    needed = max(sum(known.values()), FLOOR_MB)
    cache = cache_folder(workspace)
    needs = {_disk_of(workspace.folder): needed}
    if not shares_blocks(workspace.folder, cache):
        needs[_disk_of(cache)] = needs.get(_disk_of(cache), 0.0) + needed
    for disk, wanted in needs.items():
        folder = workspace.folder if disk == _disk_of(workspace.folder) else cache
        free = shutil.disk_usage(_existing(folder)).free / 1e6
        if free < wanted:
            raise StorageError(_refusal(known, wanted, free, folder, workspace, kept_runs))


def _refusal(
    known: dict[str, float], wanted: float, free: float, folder: Path, workspace: Workspace, kept_runs: int
) -> str:
    parts = ", ".join(f"{stage} {size(mb)}" for stage, mb in known.items()) or "unknown, but at least this"
    return (
        f"This run needs about {size(wanted)} on the disk of {folder}, where {size(free)} are free. Nothing has begun. "
        f"New files: {parts}; DVC's cache takes the same again unless the file system shares blocks.\n"
        f"What frees space: {'; '.join(_ways(workspace, kept_runs))}."
    )


def _ways(workspace: Workspace, kept_runs: int) -> list[str]:
    """What would free how much, in words."""
    ways = []
    for runs in dict.fromkeys((kept_runs, 1)):
        with contextlib.suppress(RootstockError):
            freed = size(tidy(workspace, runs, dry=True).freed_mb)
            ways.append(f"`make tidy` frees {freed}" if runs == kept_runs else f"with run.kept_runs=1, {freed}")
    sources = sum(path.lstat().st_size for path in workspace.source_cache.rglob("*")) / 1e6
    if sources >= 1:
        ways.append(f"deleting {workspace.source_cache}, the copies of sources, frees {size(sources)}")
    return [*ways, "or use a larger disk"]


def _disk_of(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    return next(one for one in (folder, *folder.parents) if one.exists())
