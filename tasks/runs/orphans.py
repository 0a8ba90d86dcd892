"""Stops processes that a killed run has left. Only processes with the supervisor's environment variable are touched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from tasks.progress import PROGRESS_VARIABLE
from tasks.runs.guarded_process import GRACE_S


def stop_orphans(folder: Path, grace_s: float = GRACE_S) -> int:
    """Stop every supervised process in a claimed folder, where no living run can be. Returns how many there were.

    The guards stop the processes of a killed run anyway; this function waits until they are gone.
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
    top = folder.resolve()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            supervised = process.pid != os.getpid() and PROGRESS_VARIABLE in process.environ()
            if supervised and Path(process.cwd()).is_relative_to(top):
                yield process
