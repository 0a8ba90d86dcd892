"""The one shape of all programs: settings in, a summary out, errors in words, costs written down."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tasks.errors import RootstockError
from tasks.files import read_json, write_json
from tasks.settings import Settings, load_settings

COSTS_FOLDER = ".rootstock/costs"
MENDABLE = 2
"""Exit code of a program that stopped for a reason that the user can mend; a retry can't help."""

_STORAGE_ERRNOS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "the file would pass the allowed size",
    errno.EACCES: "writing is not permitted",
}


def run_stage(stage: str, run: Callable[[Settings, Path], Any]) -> int:
    """Run one stage in the current folder; print its summary; write its costs down. Gives the exit code.

    The costs (seconds, peak memory, and the numbers of the summary) go to `.rootstock/costs/<stage>.json`.
    They differ from run to run, so DVC doesn't track them.
    """

    def body() -> None:
        workspace = Path.cwd()
        start = time.monotonic()
        summary = run(load_settings(workspace), workspace)
        costs = {
            **dataclasses.asdict(summary),
            "seconds": round(time.monotonic() - start, 3),
            "peak_memory_mb": _peak_memory_mb(),
        }
        write_json(workspace / COSTS_FOLDER / f"{stage}.json", costs)
        print(f"{stage}: {summary}", flush=True)

    return run_program(body)


def read_costs(workspace: Path, stage: str) -> dict[str, Any]:
    """What `run_stage` wrote for the stage's last run here; empty if it never ran here."""
    path = workspace / COSTS_FOLDER / f"{stage}.json"
    costs: dict[str, Any] = read_json(path) if path.exists() else {}
    return costs


def run_program(body: Callable[[], None]) -> int:
    """Run a program's body and give its exit code; what the user can mend goes to stderr in words."""
    signal.signal(signal.SIGTERM, _stop)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings of TensorFlow's C++ side mean nothing to a user
    try:
        body()
    except RootstockError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return MENDABLE
    except OSError as error:
        reason = _STORAGE_ERRNOS.get(error.errno or 0)
        if reason is None:
            raise
        print(
            f"StorageError: {reason}: {error.filename or Path.cwd()}. What was finished before is intact; "
            "make room (or make it writable) and run the same command again.",
            file=sys.stderr,
        )
        return MENDABLE
    except KeyboardInterrupt:
        print("Stopped. What was finished is kept; the same command goes on from there.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave through the `finally` blocks, so that temporary files and workers go away."""
    print("Stopped by SIGTERM. What was finished is kept; the same command goes on from there.", file=sys.stderr)
    raise SystemExit(128 + number)


def _peak_memory_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3))
