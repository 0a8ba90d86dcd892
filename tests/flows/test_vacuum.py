"""Prefect's database doesn't grow for ever: the server of `make run` deletes old runs, too."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.login import authorization
from flows.server import KEPT_RUNS_S, Server, temporary_server
from tasks.workspace import Workspace
from tests.waiting import wait_until


def ask(server: Server, path: str, body: Any = None) -> Any:
    headers = {"Authorization": authorization(server.login), "Content-Type": "application/json"}
    if body is not None:
        token = ask(server, "/csrf-token?client=test")["token"]
        headers |= {"Prefect-Csrf-Client": "test", "Prefect-Csrf-Token": token}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{server.api_url}{path}", data, headers), timeout=30) as answer:
        return json.load(answer)


def finished_run(server: Server, home: Path, ago: timedelta) -> str:
    """A run that ended some time ago; its id. The server believes no client's times, so the database is changed."""
    flow = ask(server, "/flows/", {"name": "pipeline"})["id"]
    run: str = ask(server, "/flow_runs/", {"flow_id": flow, "state": {"type": "PENDING"}})["id"]
    ask(server, f"/flow_runs/{run}/set_state", {"state": {"type": "COMPLETED"}, "force": True})
    ended = (datetime.now(UTC) - ago).strftime("%Y-%m-%d %H:%M:%S.%f")
    with contextlib.closing(sqlite3.connect(home / "prefect.db", timeout=60)) as database, database:
        changed = database.execute("UPDATE flow_run SET end_time = ? WHERE id = ?", (ended, run))
        assert changed.rowcount == 1
    return run


def is_there(server: Server, run: str) -> bool:
    try:
        ask(server, f"/flow_runs/{run}")
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return False
    return True


@pytest.mark.slow
def test_runs_of_long_ago_go_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS", "1")  # not only when the server starts
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    kept = timedelta(seconds=int(KEPT_RUNS_S))
    with temporary_server(Workspace.at(tmp_path)) as server:
        server.wait_until_ready()
        young = finished_run(server, tmp_path, kept - timedelta(days=1))
        old = finished_run(server, tmp_path, kept + timedelta(hours=1))
        wait_until(lambda: not is_there(server, old), "the old run to go")
        assert is_there(server, young)
