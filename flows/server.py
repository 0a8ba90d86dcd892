"""A Prefect server as a guarded child of this process. Imports no Prefect: that takes seconds, while the server starts.

Prefect can start a temporary server itself, but only after this process has imported Prefect's whole server too:
15 s for an empty flow on two cores, against 8 s so. And it outlives a run that is killed with -9; a guarded one can't.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tasks.errors import RootstockError
from tasks.runs.guarded import Guarded

HOST = "127.0.0.1"
HOME = ".rootstock/prefect"
_START_LIMIT_S = 120.0

_ALWAYS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
}
_NOT_NEEDED_FOR_ONE_RUN = (
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
    "DB_VACUUM",
    "EVENT_PERSISTER",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "SCHEDULER",
    "TRIGGERS",
)


class Server:
    """A Prefect server that is starting or running.

    Attributes:
        address: such as http://127.0.0.1:4200.
        api_url: what PREFECT_API_URL must be to use it.
    """

    def __init__(self, process: Guarded, port: int) -> None:
        self._process, self._port = process, port
        self.address = f"http://{HOST}:{port}"
        self.api_url = f"{self.address}/api"

    def wait_until_ready(self) -> None:
        """Return when it answers.

        Raises:
            RootstockError: it ended, or didn't answer within two minutes.
        """
        give_up = time.monotonic() + _START_LIMIT_S
        while not self._answers():
            if self._process.ending() is not None:
                raise RootstockError("Prefect's server stopped while it started; its words are above.")
            if time.monotonic() > give_up:
                raise RootstockError(f"Prefect's server doesn't answer at {self.address} after {_START_LIMIT_S:g} s.")
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/api/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        return False


def prefect_environment(workspace: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for Prefect: its files stay in the workspace unless the user has said where they go."""
    return {"PREFECT_HOME": str(workspace.resolve() / HOME), **_ALWAYS, **environment}


@contextlib.contextmanager
def temporary_server(workspace: Path) -> Iterator[Server]:
    """A server without UI, schedules and triggers, for one run. The runs' history stays in the workspace."""
    port = free_port()
    environment = {
        **prefect_environment(workspace, os.environ),
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _NOT_NEEDED_FOR_ONE_RUN},
    }
    # What `prefect server start` runs, without the seconds that its command line takes to import.
    arguments = ["--factory", "prefect.server.api.server:create_app", "--host", HOST, "--port", str(port)]
    command = [sys.executable, "-m", "uvicorn", *arguments, "--log-level", "error", "--timeout-graceful-shutdown", "2"]
    with Guarded(command, workspace, environment, output=2) as process:
        yield Server(process, port)


@contextlib.contextmanager
def served(workspace: Path, port: int) -> Iterator[Server]:
    """A whole server with its UI."""
    environment = {
        **prefect_environment(workspace, os.environ),
        # Without it the UI asks port 4200, wherever the server listens.
        "PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{port}/api",
    }
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    with Guarded(command, workspace, environment, output=subprocess.DEVNULL) as process:
        yield Server(process, port)


def free_port(wanted: int = 0) -> int:
    """`wanted` if nobody listens there, else a free one."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            found: int = probe.getsockname()[1]
            return found
    raise RootstockError(f"There is no free port on {HOST}.")
