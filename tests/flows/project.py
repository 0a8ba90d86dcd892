"""A stand-in project: a real DVC repository with the real flows and tasks, and fast stages with the real names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from flows.login import LOGIN_VARIABLE, authorization
from tasks.workspace import Workspace
from tests.conftest import PARAMS, PROJECT
from tests.tasks.runs.repository import dvc
from tests.waiting import wait_until

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
STAGES = ("ingest", "prepare", "features", "train@feature_extraction", "evaluate", "export")
NIGHTLY = 'cron: "0 3 * * *"'
"""The schedule of the nightly runs in prefect.yaml."""
_WEEKLY = 'cron: "0 6 * * 1"'
_DVC_YAML = """
stages:
  ingest:
    cmd: python stand_in.py ingest out/ingest
    deps: [stand_in.py]
    params: [source, ingest]
    outs: [out/ingest: {persist: true}]
  prepare:
    cmd: python stand_in.py prepare out/prepare out/ingest
    deps: [stand_in.py, out/ingest]
    outs: [out/prepare: {persist: true}]
  features:
    cmd: python stand_in.py features out/features out/prepare
    deps: [stand_in.py, out/prepare]
    params: [features, strategies]
    outs: [out/features: {persist: true}]
  train:
    matrix:
      strategy: ${strategies}
    cmd: >-
      python stand_in.py train@${item.strategy} out/trained/${item.strategy} out/prepare out/features/block5_pool
      out/features/for/${item.strategy}
    deps: [stand_in.py, out/prepare, out/features/block5_pool, "out/features/for/${item.strategy}"]
    params: [train]
    outs: ["out/trained/${item.strategy}"]
  evaluate:
    cmd: python stand_in.py evaluate out/evaluation out/prepare out/features/block5_pool out/trained
    deps: [stand_in.py, out/prepare, out/features/block5_pool, out/trained]
    params: [strategies]
    outs: [out/evaluation: {persist: true}]
  export:
    cmd: python stand_in.py export out/export out/evaluation
    deps: [stand_in.py, out/evaluation]
    outs: [out/export]
"""


class Project:
    """A folder with the real flows and tasks, and quick stages of the real names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT")},
            "STAND_IN": str(folder),
            "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.2",  # seconds; the tests wait for lines of the log
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@example.org",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@example.org",
        }

    def git(self, *arguments: str) -> str:
        result = subprocess.run(
            ["git", *arguments], cwd=self.folder, env=self.environment, check=True, capture_output=True, text=True
        )
        return result.stdout.removesuffix("\n")

    def dvc(self, *arguments: str) -> str:
        return dvc(self.folder, *arguments, environment=self.environment)

    def behave(self, stage: str, how: str) -> None:
        """What a stage does next: `user error`, `busy once`, `crash once`, `hang`, `worse`, or `wait` for an order."""
        (self.folder / "behave").mkdir(exist_ok=True)
        (self.folder / "behave" / f"{stage}.waits").unlink(missing_ok=True)
        written = self.folder / "behave" / f"{stage}.new"
        written.write_text(how)
        written.replace(self.folder / "behave" / stage)

    def waits(self, stage: str) -> bool:
        """Whether a stage has begun that was told to wait."""
        return (self.folder / "behave" / f"{stage}.waits").exists()

    def wait_for(self, stage: str) -> None:
        wait_until(lambda: self.waits(stage), f"{stage} to begin")

    def ran(self) -> list[str]:
        """The stages that ran since the last call, in their order."""
        record = self.folder / "ran.txt"
        stages = record.read_text().split() if record.exists() else []
        record.unlink(missing_ok=True)
        return stages

    def lock(self, branch: str = "") -> str:
        """dvc.lock of the folder, or as a branch holds it."""
        return self.git("show", f"{branch}:dvc.lock") + "\n" if branch else (self.folder / "dvc.lock").read_text()

    def processes(self) -> list[int]:
        """The process ids of a stage that hangs; waits until it does."""
        file = self.folder / "processes.txt"
        wait_until(file.exists, "a stage to hang")
        return [int(number) for number in file.read_text().split()]

    def command(self, *arguments: str, output: Path | None = None) -> subprocess.Popen[bytes]:
        """Start Python in the project's folder."""
        with (output or self.folder / "command.log").open("wb") as file:
            return subprocess.Popen(
                [sys.executable, *arguments], cwd=self.folder, env=self.environment, stdout=file, stderr=file
            )

    def left_over(self) -> list[str]:
        """What still runs in this folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def make(self, *arguments: str) -> tuple[int, str]:
        """Run `make` in the project's folder, with the environment that runs the tests; gives exit code and output."""
        shutil.copy(PROJECT / "Makefile", self.folder)
        if not (self.folder / ".venv").exists():
            (self.folder / ".venv").symlink_to(sys.prefix)
        command = ["make", "--old-file=.venv/ready", *arguments]
        result = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        return result.returncode, result.stdout

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run Python in the project's folder; gives its exit code and its output."""
        with self.command(*arguments) as process:
            code = process.wait(600)
        return code, (self.folder / "command.log").read_text()


def make_template(folder: Path) -> None:
    """Fill a folder with a stand-in project, committed, compiled, and with the database of a Prefect that never ran."""
    for name in ("flows", "tasks"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PARAMS, folder)
    write_deployments(folder)
    shutil.copy(Path(__file__).with_name("stand_in.py"), folder)
    (folder / "dvc.yaml").write_text(_DVC_YAML)
    (folder / ".gitignore").write_text(
        "ran.txt\nbehave\nprocesses.*\ncommand.log\nout\n.rootstock\n__pycache__\nreports/*\n!reports/metrics.json\n"
    )
    project = Project(folder)
    project.git("init", "-q", "-b", "main")
    project.dvc("init", "-q")
    project.git("add", ".")
    project.git("commit", "-q", "-m", "The project")
    assert project.run("-m", "compileall", "-q", "flows", "tasks", "stand_in.py")[0] == 0
    make_prefect_home(Workspace.at(folder).prefect_home)


def make_prefect_home(folder: Path) -> None:
    """Make a database as Prefect's server does at its first start, in which it then finds nothing to migrate."""
    folder.mkdir(parents=True)
    environment = {**os.environ, "PREFECT_HOME": str(folder)}
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


def write_deployments(folder: Path) -> None:
    """The project's prefect.yaml with schedules that never fire by themselves, whatever the time."""
    text = (PROJECT / "prefect.yaml").read_text()
    for schedule in (NIGHTLY, _WEEKLY):
        assert text.count(schedule) == 1
        text = text.replace(schedule, f"{schedule}\n        active: false")
    (folder / "prefect.yaml").write_text(text)


def copy_project(template: Path, folder: Path) -> Project:
    """A stand-in project of its own."""
    shutil.copytree(template, folder, symlinks=True)
    project = Project(folder)
    project.git("update-index", "-q", "--refresh")  # git knows its files by their inodes too
    return project


class Api:
    """A Prefect server's REST interface.

    Args:
        url: the value of PREFECT_API_URL.
        login: user:password, if the server asks for it.

    Attributes:
        client: the environment variables of a program that uses the server.
    """

    def __init__(self, url: str, login: str | None = None) -> None:
        self.url = url
        self.client = {"PREFECT_API_URL": url}
        self._headers = {"Content-Type": "application/json"}
        if login is not None:
            self.client[LOGIN_VARIABLE] = login
            self._headers["Authorization"] = authorization(login)

    def get(self, path: str) -> Any:
        return self._send("GET", path, None)

    def post(self, path: str, **body: Any) -> Any:
        return self._send("POST", path, json.dumps(body).encode())

    def post_list(self, path: str, body: list[Any]) -> None:
        self._send("POST", path, json.dumps(body).encode())

    def start_run(self, name: str = "manual", flow: str = "pipeline", **changes: Any) -> str:
        """Start a deployment as a click in the UI does; gives the flow run's id."""
        deployment = self.get(f"/deployments/name/{flow}/{name}")["id"]
        run_id: str = self.post(f"/deployments/{deployment}/create_flow_run", parameters=changes)["id"]
        return run_id

    def active_schedules(self) -> list[str]:
        """The deployments that start runs by themselves."""
        found = self.post("/deployments/filter")
        return [one["name"] for one in found if any(schedule["active"] for schedule in one["schedules"])]

    def state(self, run_id: str) -> str:
        state: str = self.get(f"/flow_runs/{run_id}")["state"]["type"]
        return state

    def states(self, run_id: str) -> list[dict[str, Any]]:
        """All states that a run has had."""
        found: list[dict[str, Any]] = self.get(f"/flow_run_states/?flow_run_id={run_id}")
        return found

    def seconds(self, run_id: str) -> float:
        """From the moment at which a run was due to its end."""
        run = self.get(f"/flow_runs/{run_id}")
        due, ended = (datetime.fromisoformat(run[key]) for key in ("expected_start_time", "end_time"))
        return (ended - due).total_seconds()

    def ended(self, run_id: str) -> bool:
        return self.state(run_id) in ENDED

    def finish(self, run_id: str, state: str = "COMPLETED", patience_s: float = 600.0) -> None:
        """Wait for a run's end, which must be the state."""
        wait_until(lambda: self.ended(run_id), f"run {run_id} to end", patience_s, pause_s=0.5)
        assert self.state(run_id) == state, self.log(run_id)

    def wait_for_log(self, run_id: str, *parts: str) -> None:
        """Wait until a run has logged what is looked for: logs come after the state."""
        for part in parts:
            wait_until(lambda part=part: part in self.log(run_id), f"{part!r} in the log of the run")  # type: ignore[misc]

    def log(self, run_id: str) -> str:
        """What a run has logged until now."""
        wanted = {"flow_run_id": {"any_": [run_id]}}
        lines: list[str] = []
        while logs := self.post("/logs/filter", logs=wanted, sort="TIMESTAMP_ASC", offset=len(lines)):
            lines += [line["message"] for line in logs]
        return "\n".join(lines)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The latest events of a name."""
        wanted = {"event": {"name": [name]}}
        found: list[dict[str, Any]] = self.post("/events/filter", filter=wanted)["events"]
        return found

    def answers(self) -> bool:
        try:
            self.get("/health")
        except OSError:
            return False
        return True

    def patch(self, path: str, **body: Any) -> None:
        self._send("PATCH", path, json.dumps(body).encode())

    def artifact(self, key: str) -> Any:
        return self.get(f"/artifacts/{key}/latest")

    def _send(self, method: str, path: str, body: bytes | None) -> Any:
        for pause_s in (1, 2, 4, 8, 0):
            request = urllib.request.Request(self.url + path, body, self._headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    text = answer.read()
                break
            except urllib.error.HTTPError as refusal:
                if refusal.code == 403 and pause_s and b"CSRF" in refusal.read():
                    self._get_token()
                elif refusal.code != 503 or not pause_s:  # 503: the database was busy
                    raise
                else:
                    time.sleep(pause_s)
        return json.loads(text) if text else None

    def _get_token(self) -> None:
        """Send a token against forged requests from now on, as Prefect's client does."""
        token = self.get("/csrf-token?client=tests")
        self._headers |= {"Prefect-Csrf-Client": token["client"], "Prefect-Csrf-Token": token["token"]}
