"""The login of the server of `make ui`: kept in a file of its owner, and sent to that server only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import ui
from flows.login import LOGIN_VARIABLE, kept_login, with_login
from tasks.workspace import Workspace
from tests.conftest import PARAMS, PROJECT

HERE = "http://127.0.0.1:4200/api"


@pytest.fixture
def here(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path)


def test_login_is_made_once_and_kept_for_its_owner_only(here: Workspace) -> None:
    umask = os.umask(0)
    try:
        login = kept_login(here)
    finally:
        os.umask(umask)
    assert here.server_login.stat().st_mode & 0o777 == 0o600
    assert here.server_login.read_text() == f"{login}\n"
    assert len(login.removeprefix("rootstock:")) == 32
    assert kept_login(here) == login
    assert list(here.server_login.parent.iterdir()) == [here.server_login]


def test_login_that_was_deleted_is_made_anew(here: Workspace) -> None:
    login = kept_login(here)
    here.server_login.unlink()
    assert kept_login(here) != login


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_login_that_others_may_have_read_is_made_anew(here: Workspace, mode: int) -> None:
    login = kept_login(here)
    here.server_login.chmod(mode)
    assert kept_login(here) != login
    assert here.server_login.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "password", "ann:", ":password", "ann:two words"])
def test_file_without_a_login_is_replaced(here: Workspace, text: str) -> None:
    kept_login(here)
    here.server_login.write_text(text)
    assert kept_login(here).startswith("rootstock:")


def test_login_of_a_persons_own_choice_is_kept(here: Workspace) -> None:
    kept_login(here)
    here.server_login.write_text("ann:her:choice\n")
    assert kept_login(here) == "ann:her:choice"


@pytest.mark.parametrize("url", [HERE, "http://localhost:4201/api"])
def test_client_of_this_machines_server_gets_the_login(here: Workspace, url: str) -> None:
    login = kept_login(here)
    assert with_login(here, {"PREFECT_API_URL": url, "A": "b"}) == {
        "PREFECT_API_URL": url,
        "A": "b",
        LOGIN_VARIABLE: login,
    }


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PREFECT_API_URL": "https://prefect.example.org/api"},
        {"PREFECT_API_URL": "http://127.0.0.1.example.org/api"},
        {"PREFECT_API_URL": "http://127.0.0.1@example.org/api"},
        {"PREFECT_API_URL": HERE, LOGIN_VARIABLE: "ann:own"},
    ],
)
def test_login_goes_to_no_other_server_and_replaces_no_other_login(
    here: Workspace, environment: dict[str, str]
) -> None:
    kept_login(here)
    assert with_login(here, environment) == environment


def test_client_without_a_login_file_is_left_alone(here: Workspace) -> None:
    assert with_login(here, {"PREFECT_API_URL": HERE}) == {"PREFECT_API_URL": HERE}


@pytest.mark.parametrize("terminal", [True, False])
def test_password_is_printed_to_a_terminal_only(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = SimpleNamespace(address="http://127.0.0.1:4200", api_url=HERE, login="rootstock:canary")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    text = ui._welcome(server)
    assert ("rootstock:canary" in text) == terminal
    assert (".rootstock/prefect_login" in text.splitlines()[2]) != terminal
    assert f"export PREFECT_API_URL={HERE}" in text


@pytest.mark.parametrize("host", ["prefect.example.org", "127.0.0.1:4200"])
def test_login_in_the_address_is_moved_to_where_nobody_prints_it(here: Workspace, host: str) -> None:
    kept_login(here)
    moved = with_login(here, {"PREFECT_API_URL": f"http://ann:s%40cret@{host}/api"})
    assert moved == {"PREFECT_API_URL": f"http://{host}/api", LOGIN_VARIABLE: "ann:s@cret"}
    chosen = with_login(here, {"PREFECT_API_URL": f"http://ann:s%40cret@{host}/api", LOGIN_VARIABLE: "bob:other"})
    assert chosen == {"PREFECT_API_URL": f"http://{host}/api", LOGIN_VARIABLE: "bob:other"}


@pytest.mark.parametrize(
    ("program", "address"),
    [
        ("flows.pipeline", "http://ann:canary@127.0.0.1:9/api"),
        ("flows.worker", "http://ann:canary@127.0.0.1/api"),
        ("flows.alerts", "http://ann:canary@127.0.0.1:9/api"),
    ],
)
def test_login_in_the_address_of_a_server_that_is_away_is_not_printed(
    tmp_path: Path, program: str, address: str
) -> None:
    environment = {**os.environ, "PREFECT_API_URL": address, "PYTHONPATH": str(PROJECT)}
    shutil.copy(PARAMS, tmp_path)
    ended = subprocess.run(
        [sys.executable, "-m", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, "canary" in ended.stdout + ended.stderr) == (2, False), ended.stderr
    assert "no Prefect server answers there" in ended.stderr
