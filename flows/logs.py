"""Readable logs of Prefect: an error that the user can fix is logged once, without the engine's traceback."""

from __future__ import annotations

import logging

from tasks.errors import RootstockError
from tasks.runs.stage_failure import StageFailed

_FLOWS, _TASKS = "prefect.flow_runs", "prefect.task_runs"
_FAILED = "Finished in state Failed"
_AGAIN = "Engine execution exited with unexpected exception"
"""A worker's process logs the error of its flow a second time, after the flow has ended."""


def shorten_errors() -> None:
    """From now on, log `RootstockError`s of tasks and flows without their tracebacks. A second call does nothing."""
    for name in (_FLOWS, _TASKS):
        logging.getLogger(name).addFilter(_shorten)


def hide_links() -> None:
    """From now on, don't log links to flow runs: a temporary server has no pages."""
    logging.getLogger(_FLOWS).addFilter(_is_no_link)


def send_logs() -> None:
    """Send the log to the server now: it would be lost if a signal ended the process."""
    for handler in logging.getLogger(_FLOWS).handlers:
        handler.flush()


def _is_no_link(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("View at ")


def _shorten(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, StageFailed) and record.name == _TASKS:
        return False  # the flow ends with the same error and logs it
    if isinstance(error, RootstockError) and str(record.msg) == _AGAIN:
        return False
    if isinstance(error, RootstockError):
        record.exc_info, record.exc_text = None, None
        record.msg, record.args = "%s: %s", (type(error).__name__, error)
    elif str(record.msg).startswith(_FAILED):
        record.msg, record.args = _FAILED, ()  # the rest repeats the error in one long line
    return True
