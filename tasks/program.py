"""The shell of all programs: it reads settings, prints the summary or the error, and records costs."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tasks.errors import USER_ERROR, RootstockError
from tasks.params import load_settings
from tasks.runs.costs import keep_costs
from tasks.runs.resource_usage import ResourceUsage
from tasks.settings import Settings
from tasks.workspace import Workspace

_STORAGE_ERRNOS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "the file would pass the allowed size",
    errno.EACCES: "writing is not permitted",
}


def run_stage(stage: str, run: Callable[[Settings, Workspace], Any]) -> int:
    """Run one stage in the current folder, print its summary and record its costs. Returns the exit code.

    The costs (seconds, peak memory and so on, and the numbers of the summary) are written to `.rootstock/costs`.
    Every stage but `train`, which has a parser of its own, knows `--help` and refuses all other arguments.
    """
    if "@" not in stage:
        what = sys.modules[run.__module__].__doc__
        form = argparse.RawDescriptionHelpFormatter
        argparse.ArgumentParser(f"python -m tasks.{stage}", description=what, formatter_class=form).parse_args()

    def body() -> None:
        workspace = Workspace.at(Path.cwd())
        with ResourceUsage() as usage:
            summary = run(load_settings(workspace.folder), workspace)
        keep_costs(workspace, stage, {**dataclasses.asdict(summary), **usage.readings})
        print(f"{stage}: {summary}", flush=True)

    return run_program(body)


def run_program(body: Callable[[], None]) -> int:
    """Run a program's body. Returns the exit code.

    Errors that the user can fix, or that pass, go to stderr without a traceback.
    """
    signal.signal(signal.SIGTERM, _stop)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides warnings of TensorFlow's C++ code
    try:
        body()
    except RootstockError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        reason = _STORAGE_ERRNOS.get(error.errno or 0)
        if reason is None:
            raise
        print(
            f"StorageError: {reason}: {error.filename or Path.cwd()}. Finished work is intact. "
            "Make room (or make it writable) and run the same command again.",
            file=sys.stderr,
        )
        return USER_ERROR
    except KeyboardInterrupt:
        print("Stopped. Finished work is kept; the same command continues from there.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """Exit through the `finally` blocks, which remove temporary files and stop workers."""
    print("Stopped by SIGTERM. Finished work is kept; the same command continues from there.", file=sys.stderr)
    raise SystemExit(128 + number)
