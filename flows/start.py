"""What a worker starts for a run: the deployed commit's code, whatever the working tree holds, then Prefect's engine.

A worker is started in a clone of the repository (`make worker`). The clone's `.rootstock` holds what runs need. This
file and the three that it imports are all that is used of the clone's working tree.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from tasks.errors import RootstockError
from tasks.runs.code_snapshot import unpack

COMMIT_VARIABLE = "ROOTSTOCK_COMMIT"
"""Names the environment variable with the deployed commit; prefect.yaml sets it."""
ROOT_VARIABLE = "ROOTSTOCK_ROOT"
"""The same for the clone in which the worker was started."""


def main() -> NoReturn:
    root = Path.cwd()
    try:
        code = unpack(root, os.environ[COMMIT_VARIABLE])
    except RootstockError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    os.environ[ROOT_VARIABLE] = str(root)
    os.chdir(code)
    os.execv(sys.executable, [sys.executable, "-m", "prefect.engine"])  # noqa: S606 - this interpreter, no shell


if __name__ == "__main__":
    main()
