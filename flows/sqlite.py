"""Run a module that is Prefect's server, on SQLite as it should be: `python flows/sqlite.py prefect server start ...`.

Prefect 3.8 begins its transactions deferred, so of two that read before they write one fails at once ("database is
locked"). Cursors of such errors are collected by the thread of the event loop, which then waits for SQLite's mutex
while its holder waits, for a minute, for a lock that only the event loop can release: nobody is answered meanwhile.
Here transactions begin with the right to write, and none waits longer than seconds; Prefect's clients try again. Seen
with thirty late runs and three clients that set states: no answer for a minute before, each within 0.4 s since.
PostgreSQL is left alone.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import Pool

BUSY_TIMEOUT_MS = 5_000


def be_kind_to_sqlite() -> None:
    """Make every engine of this process so."""
    event.listen(Pool, "checkout", _wait_seconds_only)
    event.listen(Engine, "before_cursor_execute", _begin_with_the_right_to_write, retval=True)


def _wait_seconds_only(connection: Any, _record: object, _proxy: object) -> None:
    if "sqlite" in type(connection).__module__:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.close()


def _begin_with_the_right_to_write(
    _connection: Connection, _cursor: object, statement: str, parameters: Any, _context: object, _many: bool
) -> tuple[str, Any]:
    return ("BEGIN IMMEDIATE" if statement == "BEGIN DEFERRED" else statement), parameters


if __name__ == "__main__":
    be_kind_to_sqlite()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
