"""The program that a worker starts for a run: it unpacks the code of the deployed commit and starts Prefect's engine.

A worker is started in a clone of the repository (`make worker`). The clone's `.rootstock` holds the files of runs. From
the clone's working tree, only this file and its imports are used.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from tasks.errors import RootstockError
from tasks.runs.code_snapshot import unpack

COMMIT_VARIABLE = "ROOTSTOCK_COMMIT"
"""The environment variable with the deployed commit; prefect.yaml sets it."""
CLONE_VARIABLE = "ROOTSTOCK_ROOT"
"""The environment variable with the clone in which the worker was started; old clones set it too, so keep the name."""

_ENGINE = """
import gc, os, runpy, sys
gc.set_threshold(100_000)
sys.path[0] = os.getcwd()
runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
"""
"""As `python -m prefect.engine`, but Python looks for garbage less often: it takes a third of the imports' time."""


def main() -> NoReturn:
    clone = Path.cwd()
    try:
        code = unpack(clone, os.environ[COMMIT_VARIABLE])
    except RootstockError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    os.environ[CLONE_VARIABLE] = str(clone)
    os.chdir(code)
    os.execv(sys.executable, [sys.executable, "-c", _ENGINE])  # noqa: S606 - this interpreter, no shell


if __name__ == "__main__":
    main()
