"""Outages of Prefect's server: what a run needs from it is asked again until it answers."""

from __future__ import annotations

import contextlib
import http
import os
from collections.abc import Iterator

import httpx
from prefect import get_run_logger

from flows.server import ask_server
from tasks.errors import TransientError
from tasks.runs.run_context import RunContext
from tasks.settings import Run
from tasks.stages import outlast


@contextlib.contextmanager
def needs_server() -> Iterator[None]:
    """Turn the errors of an outage of Prefect's server into a TransientError, and no others.

    Raises:
        TransientError: the server doesn't answer.
    """
    try:
        yield
    except httpx.TransportError as error:
        raise _outage(error) from None
    except httpx.HTTPStatusError as error:
        if error.response.status_code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        raise _outage(error) from None


def wait_for_server(context: RunContext, settings: Run) -> None:
    """Wait at the end of a deployed run until Prefect's server answers, so that it hears how the run ended.

    Prefect itself tries for some minutes only. The results are committed, so after `run.outage_limit_s` the run ends.
    """

    def ask() -> None:
        try:
            ask_server(os.environ)
        except OSError as error:
            raise _outage(error) from None

    if context.deployed is None or "PREFECT_API_URL" not in os.environ:
        return
    try:
        outlast(ask, context, settings)
    except TransientError as error:
        get_run_logger().error("The results are on the branch %s. %s", context.deployed.branch, error)


def _outage(error: Exception) -> TransientError:
    return TransientError(
        f"Prefect's server doesn't answer ({type(error).__name__}: {error}). Check that it runs, and that this machine "
        "reaches the address in PREFECT_API_URL."
    )
