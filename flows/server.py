"""A Prefect server as a guarded child of this process. This module doesn't import Prefect, which takes seconds.

Prefect can start a temporary server itself, but then this process imports Prefect's whole server first: an empty flow
takes 15 s on two idle cores, and 9 s with this module (14 s the first time, when the database is made). Prefect's own
server also outlives a run that is killed with -9; a guarded server can't.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from tasks.errors import RootstockError
from tasks.runs.guarded_process import GuardedProcess
from tasks.workspace import Workspace

HOST = "127.0.0.1"
_START_LIMIT_S = 120.0

_ALWAYS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
SERVED = {
    # By default leases are in memory: a server that restarts forgets which run holds a slot, and ends that run.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # With the default of 15 s, every run that waits in the queue counts as late.
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "1800",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "60",
}
"""Settings of a server with schedules and a queue; `server/compose.yaml` and docs/prefect.md have the same ones."""
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
        api_url: the value of PREFECT_API_URL that uses this server.
    """

    def __init__(self, process: GuardedProcess, port: int, log_file: Path) -> None:
        self._process, self._port, self._log_file = process, port, log_file
        self.address = f"http://{HOST}:{port}"
        self.api_url = f"{self.address}/api"

    def wait_until_ready(self) -> None:
        """Wait until the server answers.

        Raises:
            RootstockError: the server ended, or didn't answer within two minutes.
        """
        give_up = time.monotonic() + _START_LIMIT_S
        while not self._answers():
            if self._process.ending() is not None:
                raise RootstockError(f"Prefect's server stopped while it started; {self._log_file} says why.")
            if time.monotonic() > give_up:
                raise RootstockError(
                    f"Prefect's server doesn't answer at {self.address} after {_START_LIMIT_S:g} s; "
                    f"{self._log_file} may say why."
                )
            time.sleep(0.05)

    def is_running(self) -> bool:
        return self._process.ending() is None

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/api/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        return False


def check_answers(api_url: str) -> None:
    """Check that a server answers at this address; an HTTP error such as 401 is an answer too.

    Raises:
        RootstockError: nothing answers.
    """
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=10):  # noqa: S310 - the user's own address
            pass
    except urllib.error.HTTPError as answer:
        answer.close()
    except (OSError, ValueError) as error:
        raise RootstockError(
            f"PREFECT_API_URL names {api_url}, but no Prefect server answers there ({error}). "
            "Start it (here: make ui), or unset PREFECT_API_URL for a temporary one."
        ) from None


def prefect_environment(workspace: Workspace, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for Prefect: its files stay in the workspace unless the user has set another place."""
    chosen = {"PREFECT_HOME": str(workspace.prefect_home), **_ALWAYS, **environment}
    Path(chosen["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect doesn't create the parents
    return chosen


def served_environment(workspace: Workspace, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a server that serves schedules and a queue of runs."""
    return {**SERVED, **prefect_environment(workspace, environment)}


def server_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a server's module in any folder."""
    return [sys.executable, "-P", str(Path(__file__).with_name("sqlite.py")), module, *arguments]


@contextlib.contextmanager
def temporary_server(workspace: Workspace) -> Iterator[Server]:
    """A server without UI, schedules and triggers, for one run. The history of all runs stays in the workspace."""
    port = free_port()
    environment = {
        **prefect_environment(workspace, os.environ),
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _NOT_NEEDED_FOR_ONE_RUN},
    }
    # `prefect server start` runs the same, but its command line takes seconds to import.
    arguments = ["--factory", "prefect.server.api.server:create_app", "--host", HOST, "--port", str(port)]
    arguments += ["--log-level", "error", "--timeout-graceful-shutdown", "2"]
    with _started(server_command("uvicorn", *arguments), workspace, environment, port) as server:
        yield server


@contextlib.contextmanager
def served(workspace: Workspace, port: int) -> Iterator[Server]:
    """A complete server with its UI."""
    environment = {
        **served_environment(workspace, os.environ),
        # By default the UI calls port 4200, even if the server listens on another port.
        "PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_UI_URL": f"http://{HOST}:{port}",  # for the links in messages
    }
    environment.pop("PREFECT_API_URL", None)
    command = server_command("prefect", "server", "start", "--host", HOST, "--port", str(port))
    with _started(command, workspace, environment, port) as server:
        yield server


@contextlib.contextmanager
def _started(command: list[str], workspace: Workspace, environment: Mapping[str, str], port: int) -> Iterator[Server]:
    log_file = Path(environment["PREFECT_HOME"]) / "server.log"
    with log_file.open("wb") as output, GuardedProcess(command, workspace.folder, environment, output) as process:
        yield Server(process, port, log_file)


def free_port(wanted: int = 0) -> int:
    """The port `wanted` if it is free, else another free port."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            found: int = probe.getsockname()[1]
            return found
    raise RootstockError(f"There is no free port on {HOST}.")
