"""The stand-in project, and Prefect served as `make ui` serves it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import free_port
from tests.flows.project import Api, Project, make_project, wait_until


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project")


@pytest.fixture(scope="session")
def served_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Api]]:
    """A project with `python -m flows.ui` running in it: server, deployment and worker."""
    folder = tmp_path_factory.mktemp("served")
    with serve(make_project(folder / "project"), folder) as api:
        yield api


@contextlib.contextmanager
def serve(project: Project, folder: Path) -> Iterator[tuple[Project, Api]]:
    """Run `python -m flows.ui` in a project; its log goes to `folder`."""
    port = free_port()
    process = project.command("-m", "flows.ui", "--port", str(port), output=folder / "ui.log")
    try:
        wait_until(lambda: "Worker '" in (folder / "ui.log").read_text(), "the worker to start", 300)
        yield project, Api(f"http://127.0.0.1:{port}/api")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, (folder / "ui.log").read_text()
    assert project.left_over() == []


@pytest.fixture
def api(served_project: tuple[Project, Api], project: Project) -> Api:
    """The served Prefect; the `project`'s runs are told to it."""
    project.environment["PREFECT_API_URL"] = served_project[1].url
    return served_project[1]
