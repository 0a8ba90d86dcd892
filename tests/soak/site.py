"""All that the nights need: S3 behind a proxy, the project, Prefect's server, a worker, the receiver of alerts."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random

from flows.alerts import WEBHOOK_VARIABLE
from flows.login import new_login
from flows.server import HOST, free_port, local_server_command, protected_environment, served_environment
from tasks.workspace import Workspace
from tests.flows.project import Api, make_prefect_home
from tests.servers.fault_proxy import FaultProxy
from tests.servers.receiver import receiver
from tests.servers.seaweed import Seaweed, free_ports
from tests.soak.disk import SmallDisk
from tests.soak.nights import read_nights
from tests.soak.project import SOURCE_BUCKET, STORE_BUCKET, SoakProject
from tests.soak.record import Night
from tests.soak.services import Service
from tests.soak.source import Source

A_CLASS = 18


class Site:
    """`with Site(folder, random) as site:`; a thread starts services again.

    Attributes:
        folder: of all files of the soak; `logs` in it has the services' logs.
        services: the server and the worker, by their names.
        proxy: between the project and S3; `None` while it refuses connections.
    """

    def __init__(self, folder: Path, random: Random) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.logs.mkdir()
        self._random = random
        self._stack = ExitStack()
        self.services: dict[str, Service] = {}
        self._closing = threading.Event()
        self._tending = threading.Thread(target=self._tend, daemon=True)

    def __enter__(self) -> Site:
        with ExitStack() as stack:
            self.disk = stack.enter_context(SmallDisk(self.folder / "disk"))
            self.seaweed = stack.enter_context(Seaweed(self.folder / "seaweed"))
            (self.proxy_port,) = free_ports(1)
            self.proxy: FaultProxy | None = None
            self.accept()
            stack.callback(self.refuse)
            self.client = self.seaweed.client()
            stack.callback(self.client.close)
            for name in (SOURCE_BUCKET, STORE_BUCKET):
                self.client.create_bucket(Bucket=name)
            self.source = Source(self.client, self._random)
            self.source.fill(A_CLASS)
            self.chat = stack.enter_context(receiver("/hooks/soak"))
            self.project = SoakProject(self.disk.folder, self.folder, f"http://127.0.0.1:{self.proxy_port}")
            self.project.make()
            self._tending.start()
            stack.callback(self._stop_services)
            self._start_services()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def accept(self) -> None:
        """Let the proxy answer, if it doesn't."""
        if self.proxy is None:
            self.proxy = FaultProxy(self.seaweed.port, self.proxy_port)
            self.proxy.__enter__()

    def refuse(self) -> None:
        """Let connections to S3 be refused."""
        if self.proxy is not None:
            self.proxy.__exit__()
            self.proxy = None

    def wait_for_server(self) -> None:
        while not self.api.answers():
            time.sleep(0.5)

    def _start_services(self) -> None:
        port, login = free_port(), new_login()
        self.api = Api(f"http://{HOST}:{port}/api", login)
        self.home = self.folder / "prefect"
        make_prefect_home(self.home)
        environment = self.project.environment
        environment["PREFECT_HOME"] = str(self.home)
        environment |= served_environment(Workspace.at(self.project.folder), environment)
        environment |= {**protected_environment(login, port), **self.api.client, WEBHOOK_VARIABLE: self.chat.address}
        folder = self.project.folder
        self._add("server", local_server_command(port), folder)
        self.wait_for_server()
        self.api.post("/work_pools/", name="local", type="process", concurrency_limit=1)
        self.api.post("/work_pools/", name="gpu", type="process")
        self.deploy()
        self.deployed = time.time()
        self.project.run("-m", "flows.alerts")
        self.deployment: str = self.api.get("/deployments/name/pipeline/nightly")["id"]
        self._add("worker", _worker_command(), folder)

    def deploy(self) -> None:
        self.project.run("-m", "prefect", "--no-prompt", "deploy", "--name", "nightly")

    def _add(self, name: str, command: list[str], folder: Path) -> None:
        self.services[name] = Service(name, command, folder, self.project.environment, self.logs / f"{name}.log")

    def _tend(self) -> None:
        """What a service manager does."""
        while not self._closing.wait(0.5):
            for service in list(self.services.values()):
                service.tend()

    def _stop_services(self) -> None:
        self._closing.set()
        self._tending.join()
        for service in reversed(list(self.services.values())):
            service.stop()

    def schedule(self, active: bool) -> None:
        self.api.patch(f"/deployments/{self.deployment}", paused=not active)

    def nights(self, logs: bool = False) -> list[Night]:
        return read_nights(self.api, self.deployment, logs)


def _worker_command() -> list[str]:
    """A worker that gives a run which never begins up after minutes; an hour is right where nights are a day apart."""
    if importlib.util.find_spec("flows.patient_worker") is None:
        return [sys.executable, "-m", "flows.worker", "--pool", "local"]
    program = "from flows import lost_runs, patient_worker; lost_runs.STUCK_S = 120.0; patient_worker.main()"
    return [sys.executable, "-c", program, "--pool", "local", "--limit", "1"]
