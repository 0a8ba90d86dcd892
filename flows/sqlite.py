"""Run Prefect's server with safe SQLite transactions: `python -P flows/sqlite.py prefect server start`.

Prefect 3.8 begins its transactions deferred. If two transactions read before they write, one fails at once ("database
is locked"), and a transaction that waits for the lock waits for a minute. So several clients that write can block the
whole server for that minute: thirty late runs and three clients that set states did it. With this module, transactions
take the write lock when they begin, and wait for it for seconds only; Prefect's clients try again. With the same load,
each request then takes at most 0.4 s. PostgreSQL is not changed.
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
    """Make every SQLAlchemy engine of this process take the write lock when a transaction begins."""
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
