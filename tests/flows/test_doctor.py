"""The program `doctor`: a line for each check, exit codes, and clocks. What it asks Prefect is tested with a worker."""

from __future__ import annotations

import email.utils
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import doctor, prefect_health
from tasks.runs import health
from tasks.runs.findings import Finding
from tasks.workspace import Workspace
from tests.conftest import PROJECT
from tests.tasks.runs.repository import make_repository


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    root = make_repository(tmp_path / "clone")
    (root / ".venv").mkdir()
    (root / ".venv/ready").write_text("cpu\n")
    monkeypatch.chdir(root)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr("tasks.vgg.hardware.has_gpu", lambda: False)
    monkeypatch.setattr(health, "LEAST_FREE_BYTES", 0)
    return Workspace.at(root)


@pytest.fixture
def late_server() -> Iterator[str]:
    """The address of a server whose clock is ten minutes slow."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403)
            self.end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return email.utils.formatdate((timestamp or time.time()) - 600, usegmt=True)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def test_healthy_clone_ends_with_zero(clone: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    assert "WRONG" not in text
    assert "ok     weights: the VGG16 weights are the published ones" in text
    assert "ok     Prefect: PREFECT_API_URL is not set" in text
    assert text.endswith("\nAll is well.\n")


def test_what_is_wrong_ends_with_two_and_can_be_mended(
    clone: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leftover = clone.folder / "data/.pack.tar.1.partial"
    leftover.parent.mkdir()
    leftover.touch()
    few = [one for one in doctor.checks(clone, {}) if one[0] in ("unfinished files", "git hooks")]
    monkeypatch.setattr(doctor, "checks", lambda *_: few)
    assert doctor.main([]) == 2
    assert "WRONG  unfinished files: " in (text := capsys.readouterr().out)
    assert "Repair it: make doctor MEND=1" in text
    assert leftover.exists()
    assert doctor.main(["--repair"]) == 0
    assert "ok     unfinished files: " in capsys.readouterr().out
    assert not leftover.exists()


def test_word_that_means_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        doctor.main(["--repair", "yes"])
    assert "invalid choice: 'yes'" in capsys.readouterr().err


def test_gpu_that_the_environment_can_not_use_is_told(clone: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.vgg.hardware.has_gpu", lambda: True)
    [finding] = doctor.check_environment(clone)
    assert finding.remedy == "make setup FLAVOUR=gpu"
    (clone.folder / ".venv/ready").write_text("gpu\n")
    monkeypatch.setattr(doctor, "_why_unused", lambda: "")
    assert not next(iter(doctor.check_environment(clone))).remedy


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ("echo 1", ""),
        ("echo 0; echo \"I0: Could not load dynamic library 'libcusolver.so.11'; dlerror: none\" >&2",
         "It says: Could not load dynamic library 'libcusolver.so.11'."),
        ("echo 0; echo 'E0: failed call to cuInit: NO_DEVICE' >&2", "It says: failed call to cuInit: NO_DEVICE."),
        ("echo broken >&2; exit 1", "It doesn't say why."),
    ],
)  # fmt: skip
def test_gpu_that_tensorflow_can_not_use_is_told_with_its_reason(
    says: str, expected: str, clone: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{says}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr("tasks.vgg.hardware.has_gpu", lambda: True)
    (clone.folder / ".venv/ready").write_text("gpu\n")
    [finding] = doctor.check_environment(clone)
    assert bool(finding.remedy) == bool(expected)
    assert finding.found.endswith(expected)


@pytest.mark.slow
def test_tensorflow_is_asked_whether_it_finds_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.chdir(PROJECT)
    assert doctor._why_unused()


def test_missing_weights_are_told_and_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("tasks.vgg.weights._packaged_file", lambda: None)
    monkeypatch.setattr("tasks.vgg.weights._download", None)
    assert [finding.remedy for finding in doctor.check_weights()] == ["make setup"]


def test_clock_that_differs_from_a_servers_is_told(clone: Workspace, late_server: str) -> None:
    [finding] = prefect_health.check_clocks(clone, {"PREFECT_API_URL": late_server})
    assert "This machine's clock is +6" in finding.found
    assert finding.remedy


def test_server_that_does_not_answer_is_told(clone: Workspace) -> None:
    address = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    assert "doesn't tell its time" in next(iter(prefect_health.check_clocks(clone, address))).found
    [finding] = doctor.examine(lambda: prefect_health.check_server(clone, address))
    assert "no Prefect server answers there" in finding.found


def test_secret_in_an_address_is_not_shown(clone: Workspace) -> None:
    [finding] = prefect_health.check_clocks(clone, {"PREFECT_API_URL": "http://me:canary@127.0.0.1:9/api"})
    assert "canary" not in doctor.line("clock", finding)


def test_lines_say_what_repairs() -> None:
    assert doctor.line("disk", Finding("1 GB is free")) == "ok     disk: 1 GB is free"
    assert doctor.line("disk", Finding("It is full.", "rm x")) == "WRONG  disk: It is full.\n       Repair it: rm x"


@pytest.mark.parametrize(("limit", "told"), [(None, True), (2, True), (1, False)])
def test_pool_with_a_schedule_needs_a_limit_of_one_run(limit: int | None, told: bool) -> None:
    schedule = SimpleNamespace(active=True)
    deployment = SimpleNamespace(work_pool_name="local", schedules=[schedule])
    status = SimpleNamespace(value="READY")
    state = {"is_paused": False, "status": status, "concurrency_limit": limit}
    pools = [SimpleNamespace(name=name, **state) for name in ("local", "gpu")]
    client: Any = SimpleNamespace(read_deployments=lambda: [deployment], read_work_pools=lambda: pools)
    advice = [one.remedy for one in prefect_health._pools(client, []) if one.remedy]
    assert advice == (["prefect work-pool set-concurrency-limit local 1"] if told else [])
