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

from flows.login import LOGIN_VARIABLE, authorization, kept_login, new_login
from tasks.errors import RootstockError
from tasks.reports.text import without_credentials
from tasks.runs.guarded_process import GuardedProcess
from tasks.workspace import SERVER_LOGIN, Workspace

HOST = "127.0.0.1"
_START_LIMIT_S = 120.0

_ALWAYS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
KEPT_RUNS_S = "7776000"
"""How long Prefect's database keeps a run with its logs and artifacts: 90 days."""
SERVED = {
    # With the default of 15 s, every run that waits in the queue counts as late.
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "1800",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "60",
    # By default runs, logs and artifacts stay for ever; events are deleted after a week.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": KEPT_RUNS_S,
}
"""Settings of a server with schedules and a queue; `server/compose.yaml` and docs/prefect.md have the same ones."""
_NOT_NEEDED_FOR_ONE_RUN = (
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
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
        login: user:password.
        client: the environment variables of a program that uses this server.
    """

    def __init__(self, process: GuardedProcess, port: int, log_file: Path, login: str) -> None:
        self._process, self._port, self._log_file, self.login = process, port, log_file, login
        self.address = _origin(port)
        self.api_url = f"{self.address}/api"
        self.client = {"PREFECT_API_URL": self.api_url, LOGIN_VARIABLE: login}

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


def check_access(environment: Mapping[str, str]) -> None:
    """Check that a server answers at PREFECT_API_URL, and that it lets in a client with this environment.

    A login that is part of the address is never shown: see `flows.login.with_login`.

    Errors that aren't Prefect's own, such as those of a proxy, are left to Prefect's client.

    Raises:
        RootstockError: nothing answers, or the server wants another login.
    """
    url, login = without_credentials(environment["PREFECT_API_URL"]), environment.get(LOGIN_VARIABLE)
    try:
        ask_server(environment)
    except urllib.error.HTTPError as answer:
        with answer:
            if answer.code == http.HTTPStatus.UNAUTHORIZED and b"exception_message" in answer.read():
                raise RootstockError(_no_access(url, login)) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise RootstockError(
            f"PREFECT_API_URL names {url}, but no Prefect server answers there ({error}). "
            "Start it (here: make ui), or unset PREFECT_API_URL; then make run starts a temporary one."
        ) from None


def ask_server(environment: Mapping[str, str]) -> None:
    """Ask the server at PREFECT_API_URL for its version, once.

    Raises:
        OSError: it doesn't answer; a urllib.error.HTTPError if it refuses.
        ValueError: the address is none.
    """
    request = urllib.request.Request(f"{environment['PREFECT_API_URL']}/admin/version")  # noqa: S310 - the user's own
    if login := environment.get(LOGIN_VARIABLE):
        request.add_unredirected_header("Authorization", authorization(login))
    with urllib.request.urlopen(request, timeout=10):  # noqa: S310
        pass


def _no_access(url: str, login: str | None) -> str:
    refusal = f"refuses the login in {LOGIN_VARIABLE}" if login else "asks for a login"
    return (
        f"The Prefect server at {url} {refusal}. Set {LOGIN_VARIABLE} to its user:password. If `make ui` started the "
        f"server, they are in the file {SERVER_LOGIN} of the clone in which it runs."
    )


def prefect_environment(workspace: Workspace, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for Prefect: its files stay in the workspace unless the user has set another place."""
    chosen = {"PREFECT_HOME": str(workspace.prefect_home), **_ALWAYS, **environment}
    Path(chosen["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)  # Prefect doesn't create the parents
    return {**chosen, **_past_proxies(environment)}


def _past_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that keep a proxy away from the servers of this machine, if there is a proxy."""
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in environment):
        return {}
    known = environment.get("no_proxy") or environment.get("NO_PROXY", "")  # the first one counts for Python
    here = ",".join([*filter(None, [known]), HOST, "localhost"])
    return {"no_proxy": here, "NO_PROXY": here}


def served_environment(workspace: Workspace, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a server that serves schedules and a queue of runs."""
    return {**SERVED, **prefect_environment(workspace, environment)}


def protected_environment(login: str, port: int) -> dict[str, str]:
    """The settings by which a server on this machine answers only its user, and no page of another site.

    The names are those that Prefect looks up first, so no other variable of the user's shell weakens them.
    """
    return {
        "PREFECT_SERVER_API_AUTH_STRING": login,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": _origin(port),
    }


def server_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a server's module in any folder."""
    return [sys.executable, "-P", str(Path(__file__).with_name("sqlite.py")), module, *arguments]


def local_server_command(port: int) -> list[str]:
    """The command that runs Prefect's server for this machine.

    `prefect server start` starts the same application, but it doesn't check the header Host, and its command line takes
    seconds to import.
    """
    arguments = ["--app-dir", str(Path(__file__).parents[1]), "--factory", "flows.server_app:create_local_app"]
    arguments += ["--host", HOST, "--port", str(port), "--log-level", "error", "--timeout-graceful-shutdown", "2"]
    return server_command("uvicorn", *arguments)


@contextlib.contextmanager
def temporary_server(workspace: Workspace) -> Iterator[Server]:
    """A server without UI, schedules and triggers, for one run. The history of all runs stays in the workspace."""
    port, login = free_port(), new_login()
    environment = {
        **prefect_environment(workspace, os.environ),
        **protected_environment(login, port),
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "flow_runs",  # once, when the server starts
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": KEPT_RUNS_S,
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _NOT_NEEDED_FOR_ONE_RUN},
    }
    with _started(workspace, environment, port, login) as server:
        yield server


@contextlib.contextmanager
def served(workspace: Workspace, port: int) -> Iterator[Server]:
    """A complete server with its UI. Its login is that of the clone."""
    login = kept_login(workspace)
    environment = {
        **served_environment(workspace, os.environ),
        **protected_environment(login, port),
        "PREFECT_SERVER_UI_API_URL": "/api",  # of the page's own origin: 127.0.0.1, localhost, a forwarded port
        "PREFECT_UI_URL": _origin(port),  # for the links in messages
    }
    environment.pop("PREFECT_API_URL", None)
    with _started(workspace, environment, port, login) as server:
        yield server


@contextlib.contextmanager
def _started(workspace: Workspace, environment: Mapping[str, str], port: int, login: str) -> Iterator[Server]:
    log_file = Path(environment["PREFECT_HOME"]) / "server.log"
    command = local_server_command(port)
    with log_file.open("wb") as output, GuardedProcess(command, workspace.folder, environment, output) as process:
        yield Server(process, port, log_file, login)


def _origin(port: int) -> str:
    return f"http://{HOST}:{port}"


def free_port(wanted: int = 0) -> int:
    """The port `wanted` if it is free, else another free port."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            found: int = probe.getsockname()[1]
            return found
    raise RootstockError(f"There is no free port on {HOST}.")
