"""SQLite below Prefect's server: transactions that read and then write wait for each other, but never for long."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from flows.server import Server, free_port, served, server_command, temporary_server
from flows.sqlite import BUSY_TIMEOUT_MS
from tasks.workspace import Workspace
from tests.waiting import wait_until

COUNTING = """
import asyncio
from sqlalchemy import text
from prefect.server.database import provide_database_interface

async def add_one(db):
    async with db.session_context(begin_transaction=True) as session:
        (number,) = (await session.execute(text("SELECT n FROM t"))).one()
        await asyncio.sleep(0.3)
        await session.execute(text("UPDATE t SET n = :n"), {"n": number + 1})

async def main():
    db = provide_database_interface()
    async with db.session_context(begin_transaction=True) as session:
        await session.execute(text("CREATE TABLE t AS SELECT 0 AS n"))
    ends = await asyncio.gather(*(add_one(db) for _ in range(3)), return_exceptions=True)
    async with db.session_context() as session:
        n = (await session.execute(text("SELECT n FROM t"))).scalar()
        wait_ms = (await session.execute(text("PRAGMA busy_timeout"))).scalar()
    print(n, sum(isinstance(end, Exception) for end in ends), wait_ms)

asyncio.run(main())
"""


def ends(folder: Path, *command: str) -> list[int]:
    """What is counted, how many of three that count fail, and how long one waits at most, in ms."""
    (folder / "counting.py").write_text(COUNTING)
    database = f"sqlite+aiosqlite:///{folder}/prefect.db"
    environment = {
        "PATH": "",
        "PYTHONPATH": str(folder),
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
    }
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return [int(number) for number in run.stdout.split()]


@pytest.mark.slow
def test_transactions_that_read_before_they_write_wait_for_seconds_only(tmp_path: Path) -> None:
    assert ends(tmp_path, *server_command("counting")) == [3, 0, BUSY_TIMEOUT_MS]


@pytest.mark.slow
def test_prefect_without_immediate_transactions_fails(tmp_path: Path) -> None:
    """When this one fails, `flows/sqlite.py` may have become needless."""
    counted, failed, wait_ms = ends(tmp_path, sys.executable, "-m", "counting")
    assert counted < 3
    assert failed > 0
    assert wait_ms > BUSY_TIMEOUT_MS


@pytest.mark.parametrize("start", [temporary_server, lambda here: served(here, free_port())], ids=["one run", "ui"])
def test_servers_are_started_with_immediate_transactions(
    start: Callable[[Workspace], AbstractContextManager[Server]], tmp_path: Path
) -> None:
    def begun() -> bool:
        return any(server_command("x")[1:3] == command[1:3] for command in commands())

    with start(Workspace.at(tmp_path)):
        wait_until(begun, "the guard to start the server")


def commands() -> list[list[str]]:
    """The command lines of this process' descendants."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found.append(one.cmdline())
    return found
