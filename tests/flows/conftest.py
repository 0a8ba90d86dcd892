"""The stand-in project, and Prefect served as `make ui` serves it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.login import kept_login
from flows.server import free_port
from tasks.workspace import Workspace
from tests.flows.project import Api, Project, copy_project, make_template
from tests.waiting import wait_until


@pytest.fixture(scope="session")
def template(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A stand-in project that nobody changes."""
    return made_once("stand-in", make_template)


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Project:
    return copy_project(template, tmp_path / "project")


@contextlib.contextmanager
def serve(project: Project, folder: Path) -> Iterator[tuple[Project, Api]]:
    """Run `python -m flows.ui` in a project; its log goes to `folder`."""
    port = free_port()
    process = project.command("-m", "flows.ui", "--port", str(port), output=folder / "ui.log")
    try:
        wait_until(lambda: "Worker '" in (folder / "ui.log").read_text(), "the worker to start")
        api = Api(f"http://127.0.0.1:{port}/api", kept_login(Workspace.at(project.folder)))
        assert api.active_schedules() == []
        yield project, api
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, (folder / "ui.log").read_text()
    assert project.left_over() == []
