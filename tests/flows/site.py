"""A Prefect set up as in docs/prefect.md: a server, the deployments, workers; each can be killed separately."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import yaml

from flows.login import new_login
from flows.server import HOST, free_port, local_server_command, protected_environment, served_environment
from tasks.workspace import Workspace
from tests.flows.project import STAGES, Api, Project
from tests.waiting import wait_until


class Site:
    """A server and a worker of the pool `local` in a project. The pool has one run at a time, as in docs/prefect.md.

    Attributes:
        api: the server's.
        server: its process.
    """

    def __init__(self, folder: Path, project: Project) -> None:
        self.folder, self.project, self._port = folder, project, free_port()
        login = new_login()
        self.api = Api(f"http://{HOST}:{self._port}/api", login)
        project.environment |= {
            **served_environment(Workspace.at(project.folder), project.environment),
            **protected_environment(login, self._port),
            **self.api.client,
        }
        self._worker: subprocess.Popen[bytes] | None = None
        self.start_server()

    def open(self) -> None:
        self.api.post("/work_pools/", name="local", type="process", concurrency_limit=1)
        self.api.post("/work_pools/", name="gpu", type="process")
        self.prefect("deploy", "--all")
        assert self.api.active_schedules() == []
        self._worker = start_worker(self.project, "local", self.folder / "worker.log", limit=20)

    def start_server(self) -> None:
        _, *arguments = local_server_command(self._port)
        self.server = self.project.command(*arguments, output=self.folder / f"server-{time.monotonic_ns()}.log")
        wait_until(self.api.answers, "the server to answer")

    def restart_server(self) -> None:
        """Kill it, and start it again with the same database."""
        self.server.kill()
        self.server.wait()
        self.start_server()

    def close(self) -> None:
        for process in (self._worker, self.server):
            if process is not None:
                process.terminate()
                process.wait(60)

    def prefect(self, *arguments: str) -> None:
        code, text = self.project.run("-m", "prefect", "--no-prompt", *arguments)
        assert code == 0, text

    def history(self, branch: str = "runs/manual") -> list[str]:
        """The commits that runs have made, the latest first."""
        if branch not in self.project.git("branch", "--format=%(refname:short)").split():
            return []
        return self.project.git("log", "--first-parent", "--format=%H", f"main..{branch}").split()

    def params(self, commit: str) -> Any:
        return yaml.safe_load(self.project.git("show", f"{commit}:params.yaml"))

    def assert_nothing_to_do(self, branch: str = "runs/manual") -> None:
        """Who takes over what the branch holds has nothing left to run by `dvc repro`; no folder of a run is left."""
        project = self.project
        assert len(project.git("worktree", "list").splitlines()) == 1
        taken = Project(self.folder / f"taken-{time.monotonic_ns()}")
        taken.environment = {**project.environment, "STAND_IN": str(taken.folder)}
        project.git("worktree", "add", "-q", "--detach", str(taken.folder), branch)
        try:
            (taken.folder / ".dvc/config.local").write_text(f"[cache]\n    dir = {project.folder / '.dvc/cache'}\n")
            remote = (taken.folder / ".dvc/config").read_text()
            taken.dvc(*(["pull", "-q"] if remote else ["checkout", "-q"]))
            text = taken.dvc("repro")
            assert taken.ran() == [], text
            assert text.count("didn't change, skipping") >= len(STAGES)
        finally:
            project.git("worktree", "remove", "--force", str(taken.folder))


def start_worker(project: Project, pool: str, log: Path, limit: int = 1) -> subprocess.Popen[bytes]:
    """A worker, as `make worker` starts it but for the limit."""
    arguments = ["-m", "flows.patient_worker", "--pool", pool, "--limit", str(limit)]
    process = project.command(*arguments, output=log)
    wait_until(lambda: "Worker '" in log.read_text(), "the worker to start")
    return process
