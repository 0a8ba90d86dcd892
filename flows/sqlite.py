"""Run a module that is Prefect's server, on SQLite as it should be: `python -P flows/sqlite.py prefect server start`.

Prefect 3.8 begins its transactions deferred. Of two transactions that read before they write, one fails at once
("database is locked"), and one that waits for the lock waits for a minute. So several clients that write can block the
whole server for that minute: thirty late runs and three clients that set states did it. Here transactions begin with
the right to write, and none waits longer than seconds; Prefect's clients try again. The same load is then answered
within 0.4 s each. PostgreSQL is left alone.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import Pool

BUSY_TIMEOUT_MS = 5_000


def use_immediate_transactions() -> None:
    """Let every engine of this process begin its transactions with the right to write, by SQLAlchemy's events."""
    event.listen(Pool, "checkout", _wait_seconds_only)
    event.listen(Engine, "before_cursor_execute", _begin_immediately, retval=True)


def _wait_seconds_only(connection: Any, _record: object, _proxy: object) -> None:
    if "sqlite" in type(connection).__module__:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.close()


def _begin_immediately(
    _connection: Connection, _cursor: object, statement: str, parameters: Any, _context: object, _many: bool
) -> tuple[str, Any]:
    return ("BEGIN IMMEDIATE" if statement == "BEGIN DEFERRED" else statement), parameters


if __name__ == "__main__":
    use_immediate_transactions()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
