"""Prefect with its UI on this machine: a server, the deployments of prefect.yaml, and a worker that runs them.

`python -m flows.ui [--port 4200]` runs until Ctrl-C or SIGTERM, and leaves no process behind.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from flows.login import LOGIN_VARIABLE
from flows.server import Server, free_port, prefect_environment, served
from flows.worker import worker_environment
from tasks.errors import USER_ERROR, RootstockError
from tasks.runs.guarded_process import GuardedProcess
from tasks.runs.supervisor import child_environment
from tasks.workspace import SERVER_LOGIN, Workspace

POOL = "local"
_LIMITS = {POOL: 1, "gpu": None}
"""The work pools of prefect.yaml, and how many runs each may have at a time (None: as many as there are workers)."""
DEPLOYMENT = "pipeline/manual"
_GRACE_S = 45.0  # a worker waits for its run to stop
_SETUP_LIMIT_S = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped. Returns the exit code: 0 when stopped by a signal, 2 when it couldn't start or failed."""
    parser = argparse.ArgumentParser(prog="python -m flows.ui", description="Prefect's UI and a worker.")
    parser.add_argument("--port", type=int, default=4200, help="if this port isn't free, another one is used")
    port = free_port(parser.parse_args(arguments).port)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        _serve(Workspace.at(Path.cwd()), port)
    except RootstockError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
    return 0


def _serve(workspace: Workspace, port: int) -> None:
    print("Prefect is starting; this takes about half a minute.", flush=True)
    with served(workspace, port) as server:
        server.wait_until_ready()
        environment = worker_environment(
            child_environment({**prefect_environment(workspace, os.environ), **server.client})
        )
        os.environ.update(environment)
        _ensure_pools()
        _prefect("--no-prompt", "deploy", "--all", environment=environment)
        worker_command = [sys.executable, "-m", "flows.patient_worker", "--pool", POOL]
        with GuardedProcess(worker_command, workspace.folder, environment, grace_s=_GRACE_S) as worker:
            print(_welcome(server), flush=True)
            while worker.ending() is None and server.is_running():
                time.sleep(0.5)
    raise RootstockError("Prefect's worker or server ended by itself; start it again: make ui")


def _welcome(server: Server) -> str:
    # What goes to a file or to another program's log may be read by others.
    login = server.login if sys.stdout.isatty() else f"the line in the file {SERVER_LOGIN}"
    return (
        f"\nPrefect is at {server.address} - run the deployment {DEPLOYMENT} there. Ctrl-C stops all.\n"
        f"Log in on that page; paste all of this into its field: {login}\n"
        "For make run, make worker and make alerts in other terminals:\n"
        f"    export PREFECT_API_URL={server.api_url}\n"
        "For the command prefect, also:\n"
        f'    export {LOGIN_VARIABLE}="$(cat {SERVER_LOGIN})"\n'
    )


def _ensure_pools() -> None:
    from prefect import get_client  # reads the environment when it is imported
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client:
        for name, limit in _LIMITS.items():
            with contextlib.suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=name, type="process", concurrency_limit=limit))


def _prefect(*arguments: str, environment: Mapping[str, str]) -> None:
    """Run a command of Prefect; its output is shown only if it fails."""
    result = subprocess.run(
        _command(*arguments),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SETUP_LIMIT_S,
        check=False,
    )
    if result.returncode:
        raise RootstockError(f"prefect {' '.join(arguments)} failed:\n{result.stdout}")


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *arguments]


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    """Exit through the `with` blocks, which stop the children, as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
