"""A worker for the Prefect server at PREFECT_API_URL, one run at a time: `python -m flows.worker [--pool local]`.

It logs in at this clone's own server (`make ui`) by itself; for another server, set PREFECT_API_AUTH_STRING.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.login import with_login
from flows.server import check_access
from tasks.program import run_program
from tasks.workspace import Workspace

_PACE = {
    "PREFECT_WORKER_QUERY_SECONDS": "2",  # the default of 10 s feels slow after a click
    # So long before a scheduled run is due, its process starts. Then it waits: nothing is imported when the run is due.
    "PREFECT_WORKER_PREFETCH_SECONDS": "15",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Become a worker. Returns the exit code if the server can't be used."""
    parser = argparse.ArgumentParser(prog="python -m flows.worker", description="A worker, one run at a time.")
    parser.add_argument("--pool", default="local", help="the work pool whose runs it takes, such as local or gpu")
    pool: str = parser.parse_args(arguments).pool
    return run_program(lambda: _become_worker(pool))


def _become_worker(pool: str) -> None:
    environment = worker_environment(with_login(Workspace.at(Path.cwd()), os.environ))
    if environment.get("PREFECT_API_URL"):  # else it is in a profile of Prefect
        check_access(environment)
    command = [sys.executable, "-m", "flows.patient_worker", "--pool", pool, "--limit", "1"]
    os.execve(sys.executable, command, environment)  # noqa: S606 - this interpreter, no shell


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker that takes runs without delay, unless the user has set how it should."""
    return {**_PACE, **environment}


if __name__ == "__main__":
    raise SystemExit(main())
