"""The server for a team: server/compose.yaml uses settings that exist, hides its secrets, and refuses strangers.

There need not be a Docker here: the server is started with the very environment of the compose file, by the same
command, on a PostgreSQL of this machine. What only Docker does (the images, the network between them) is not tested.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.server import HOST, SERVED, free_port, protected_environment
from tasks.runs.guarded_process import GuardedProcess
from tests.conftest import PROJECT
from tests.servers.postgres import PROGRAM, postgres
from tests.waiting import wait_until

COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "server/compose.yaml").read_text())
EXAMPLE = dict(re.findall(r"^(\w+)=(.*)$", (PROJECT / "server/env.example").read_text(), re.MULTILINE))
ENVIRONMENT: dict[str, str] = COMPOSE["services"]["prefect"]["environment"]
LOGIN = "ann:canary-pa55"


def fill_in(text: str, values: Mapping[str, str]) -> str:
    """Put values into `${NAME}` and `${NAME:?...}`, as Docker does."""
    return re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", lambda found: values[found[1]], text)


def test_every_variable_is_a_setting_of_the_locked_prefect() -> None:
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_settings_fields

    known = {*_get_settings_fields(Settings), "DO_NOT_TRACK"}
    assert [name for name in ENVIRONMENT if name not in known] == []


def test_team_has_what_make_ui_has() -> None:
    assert SERVED.items() <= ENVIRONMENT.items()
    protection = protected_environment(LOGIN, 4200)
    assert protection.keys() <= ENVIRONMENT.keys()
    told = (PROJECT / "docs/prefect.md").read_text()
    assert [name for name in protection if f"    {name}=" not in told] == []
    assert [name for name, value in SERVED.items() if f"    {name}={value}\n" not in told] == []


def test_image_is_the_prefect_that_is_locked() -> None:
    locked = re.search(r"^prefect==(\S+)", (PROJECT / "requirements.txt").read_text(), re.MULTILINE)
    assert locked
    assert COMPOSE["services"]["prefect"]["image"].startswith(f"prefecthq/prefect:{locked[1]}-")


def test_nothing_but_the_loopback_is_opened_and_the_database_not_at_all() -> None:
    opened = {name: service.get("ports", []) for name, service in COMPOSE["services"].items()}
    assert opened == {"database": [], "backup": [], "prefect": ["127.0.0.1:4200:4200"]}


def test_no_log_grows_for_ever() -> None:
    logs = {name: service["logging"] for name, service in COMPOSE["services"].items()}
    assert all(log["options"].keys() == {"max-size", "max-file"} for log in logs.values()), logs


def test_secrets_are_in_no_file_that_git_keeps() -> None:
    used = set(re.findall(r"\$\{(\w+)", str(COMPOSE)))
    assert used == set(EXAMPLE)
    assert [name for name in ("POSTGRES_PASSWORD", "PREFECT_AUTH") if EXAMPLE[name]] == []
    assert all(":?" in part for part in re.findall(r"\$\{[^}]*\}", str(COMPOSE)))  # an empty one is an error
    ignored = subprocess.run(["git", "check-ignore", "server/.env"], cwd=PROJECT, capture_output=True, check=False)
    assert ignored.returncode == 0


@dataclass(frozen=True)
class Site:
    """A running server.

    Attributes:
        address: that people type.
        environment: of the server.
    """

    address: str
    environment: dict[str, str]

    def ask(self, path: str, login: str | None = LOGIN, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """Status and headers of an answer."""
        if login is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        asked = urllib.request.Request(f"{self.address}{path}", body, {"Content-Type": "application/json", **headers})
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return answer.status, answer.headers
        except urllib.error.HTTPError as refusal:
            refusal.close()
            return refusal.code, refusal.headers


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if PROGRAM is None:
        pytest.skip("there is no PostgreSQL (Debian: apt-get install postgresql)")
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    address = f"http://{HOST}:{port}"
    with postgres("prefect", "canary-database") as database:
        values = {"POSTGRES_PASSWORD": "canary-database", "PREFECT_AUTH": LOGIN, "PREFECT_ADDRESS": address}
        asked = {name: fill_in(value, values) for name, value in ENVIRONMENT.items()}
        url = asked["PREFECT_SERVER_DATABASE_CONNECTION_URL"].replace("@database:5432/", f"@{HOST}:{database}/")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        environment = {**clean, **asked, "PREFECT_SERVER_DATABASE_CONNECTION_URL": url, "PREFECT_HOME": str(folder)}
        arguments = COMPOSE["services"]["prefect"]["command"].split()[1:]
        arguments = [argument.replace("0.0.0.0", HOST) for argument in arguments]
        command = [sys.executable, "-m", "prefect", *arguments, "--port", str(port)]
        with (folder / "log").open("wb") as log, GuardedProcess(command, folder, environment, log) as server:
            found = Site(address, environment)

            def answers() -> bool:
                assert server.ending() is None, (folder / "log").read_text()
                try:
                    return found.ask("/api/health")[0] == 200
                except OSError:
                    return False

            wait_until(answers, "the server", 180)
            yield found
        assert "canary" not in (folder / "log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/api/admin/settings", "/api/deployments/name/a/b", "/api/csrf-token?client=x"])
@pytest.mark.parametrize("login", [None, "ann:wrong", "", "ann:canary-pa55x"])
def test_strangers_are_refused(site: Site, path: str, login: str | None) -> None:
    assert site.ask(path, login)[0] == 401


@pytest.mark.slow
def test_who_knows_the_password_is_let_in(site: Site) -> None:
    assert site.ask("/api/admin/settings")[0] == 200
    assert site.ask("/")[0] == 200


@pytest.mark.slow
def test_change_without_a_token_against_forgery_is_refused(site: Site) -> None:
    assert site.ask("/api/flows/", body=b'{"name": "forged"}')[0] == 403


@pytest.mark.slow
def test_page_of_another_origin_may_not_read(site: Site) -> None:
    assert "Access-Control-Allow-Origin" not in site.ask("/api/admin/settings", Origin="https://evil.example")[1]
    assert site.ask("/api/admin/settings", Origin=site.address)[1]["Access-Control-Allow-Origin"] == site.address


@pytest.mark.slow
def test_worker_that_logs_in_can_work_postgresql_keeps_it_and_a_backup_restores_it(site: Site, tmp_path: Path) -> None:
    code = "from prefect import flow\n@flow\ndef pipeline(): pass\npipeline()"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    client = {**clean, "PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": f"{site.address}/api", "DO_NOT_TRACK": "1"}
    refused = subprocess.run([sys.executable, "-c", code], env=client, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "401" in refused.stderr
    client["PREFECT_API_AUTH_STRING"] = LOGIN
    run = subprocess.run([sys.executable, "-c", code], env=client, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "canary" not in run.stdout + run.stderr
    url = site.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"].replace("+asyncpg", "")
    query = "SELECT flow.name, flow_run.state_type FROM flow_run JOIN flow ON flow.id = flow_run.flow_id"
    rows = subprocess.run(["psql", url, "-Atc", query], capture_output=True, text=True, check=True).stdout
    assert rows.splitlines() == ["pipeline|COMPLETED"]

    folder = tmp_path / "backups"
    folder.mkdir()
    for age_days in (13, 15):
        old = folder / f"prefect-{age_days}.dump"
        old.touch()
        os.utime(old, (time.time() - 86400 * age_days,) * 2)
    backup = {**COMPOSE["services"]["backup"]["environment"], "BACKUP_FOLDER": str(folder)}
    at = urllib.parse.urlsplit(url)
    backup |= {"PGHOST": HOST, "PGPORT": str(at.port), "PGPASSWORD": str(at.password)}
    variables = {**clean, **backup}
    dump = sh(variables, "sh", "server/backup.sh").strip()
    assert sorted(path.name for path in folder.iterdir()) == ["prefect-13.dump", Path(dump).name]
    assert sh({**variables, "PGPASSWORD": "wrong"}, "sh", "server/backup.sh", code=1) == ""
    assert sorted(path.name for path in folder.iterdir()) == ["prefect-13.dump", Path(dump).name]
    sh(variables, "psql", "-c", "CREATE DATABASE restored")
    sh(variables, "pg_restore", "-d", "restored", "--clean", "--if-exists", "--exit-on-error", dump)
    assert sh(variables, "psql", "-d", "restored", "-Atc", query) == rows


def sh(variables: dict[str, str], *command: str, code: int = 0) -> str:
    """Run a command in the project's folder; gives its output."""
    ended = subprocess.run(command, cwd=PROJECT, env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stderr
    return ended.stdout
