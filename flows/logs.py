"""Prefect's logs, readable: an error that the user can mend is told in words, without the engine's traceback."""

from __future__ import annotations

import logging

from tasks.errors import RootstockError

_RUN_LOGGERS = ("prefect.task_runs", "prefect.flow_runs")


def shorten_errors() -> None:
    """From now on, log `RootstockError`s of tasks and flows without their tracebacks. Repeating it does nothing."""
    for name in _RUN_LOGGERS:
        logging.getLogger(name).addFilter(_shorten)


def _shorten(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, RootstockError):
        record.exc_info, record.exc_text = None, None
        record.msg, record.args = "%s: %s", (type(error).__name__, error)
    return True
