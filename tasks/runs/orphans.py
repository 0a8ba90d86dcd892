"""Processes that a killed run may have left: each carries the supervisor's variable, so no one else's is touched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from tasks.progress import PROGRESS_VARIABLE
from tasks.runs.guarded_process import GRACE_S


def stop_orphans(folder: Path, grace_s: float = GRACE_S) -> int:
    """Stop every supervised process that works in the folder; gives their number.

    Their guards stop them anyway when a run is killed; this waits until they have.
    Only for who has claimed the folder: there can't be a living run in it then.
    """
    found = list(_supervised(folder))
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, deaf = psutil.wait_procs(found, grace_s)
    for process in deaf:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(deaf, grace_s)
    return len(found)


def _supervised(folder: Path) -> Iterator[psutil.Process]:
    top = str(folder.resolve())
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and PROGRESS_VARIABLE in process.environ():
                place = process.cwd()
                if place == top or place.startswith(f"{top}{os.sep}"):
                    yield process
