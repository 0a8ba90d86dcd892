"""What may not be left when no run is active: processes, worktrees, temporary files, locks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil

from tasks.files import TEMPORARY_SUFFIX
from tests.soak.processes import ours

_NOTES = 5
_OF_PREFECT = "runner_storage"
"""A folder that Prefect makes once and uses again."""


def processes(mark: Path, services: Iterable[int]) -> list[str]:
    """Processes with the soak's mark that are no services."""
    allowed = set(services)
    found = []
    for process in ours(mark):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid not in allowed:
                found.append(f"process {process.pid}: {' '.join(process.cmdline())[:200]}")
    return found


def notes_of_dvc(site_cache: Path) -> list[str]:
    """More notes of DVC about folders than the few folders that a person uses: one for each night."""
    found = [path for path in (site_cache / "repo").glob("*") if path.is_dir()]
    return [f"{len(found)} folders of notes in {site_cache}"] if len(found) > _NOTES else []


def files(clone: Path, temporary: Path) -> list[str]:
    """Worktrees, git's locks, unfinished files, and what lies in the folder for temporary files."""
    found = [f"worktree {path}" for path in (clone / ".rootstock/runs").glob("*") if path.is_dir()]
    found += [f"git's record of a worktree {path}" for path in (clone / ".git/worktrees").glob("*")]
    found += [f"lock {path}" for path in (clone / ".git").rglob("*.lock")]
    found += [f"unfinished object {path}" for path in (clone / ".git/objects").rglob("tmp_*")]
    found += [f"unfinished file {path}" for path in clone.rglob(f"*{TEMPORARY_SUFFIX}") if ".git" not in path.parts]
    found += [f"temporary file {path}" for path in temporary.iterdir() if path.name != _OF_PREFECT]
    return found
