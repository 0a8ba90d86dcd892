"""The worker's loops: an outage of Prefect's server doesn't end them, other errors do."""

from __future__ import annotations

import os
import subprocess
import sys

import anyio
import httpx
import pytest

from flows import worker
from flows.patient_worker import ask_for_ever
from tests.conftest import PROJECT

OUTAGE = 50
"""So many questions aren't answered; after twelve of them, Prefect's own loop would end."""


def test_loop_goes_on_through_an_outage_and_ends_when_it_is_answered() -> None:
    asked = []

    async def ask() -> None:
        asked.append(1)
        if len(asked) < OUTAGE:
            raise httpx.ConnectError("refused")
        raise KeyboardInterrupt  # what a stopped worker gets

    with pytest.raises(KeyboardInterrupt):
        anyio.run(lambda: ask_for_ever(ask, interval=0.0001, backoff=4))
    assert len(asked) == OUTAGE


def test_loop_ends_with_an_error_that_is_no_outage() -> None:
    async def ask() -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        anyio.run(lambda: ask_for_ever(ask, interval=0.0001, backoff=4))


def test_prefects_worker_runs_with_these_loops() -> None:
    code = """
import runpy, signal, sys
from flows import lost_runs, patient_worker
def check(*_, **__):
    from prefect._internal import observers
    from prefect.workers import base
    assert base.critical_service_loop is observers.critical_service_loop is patient_worker.ask_for_ever
    print(sys.argv, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a script's background
runpy.run_module, lost_runs.watch_in_background = check, lambda: print("watches")
sys.argv = ["x", "--pool", "local"]
patient_worker.main()
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    arguments = ["prefect", "worker", "start", "--type", "process", "--pool", "local"]
    assert ended.stdout == f"watches\n{arguments} True\n", ended.stderr


def test_worker_starts_a_scheduled_run_before_it_is_due_unless_its_user_wants_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: made.append(arguments[-1]))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "30")
    assert worker.main([]) == 0
    monkeypatch.delenv("PREFECT_WORKER_QUERY_SECONDS")
    assert worker.main([]) == 0
    query, prefetch = "PREFECT_WORKER_QUERY_SECONDS", "PREFECT_WORKER_PREFETCH_SECONDS"
    assert [(one[query], one[prefetch]) for one in made] == [("30", "15"), ("2", "15")]
