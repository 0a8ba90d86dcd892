"""What `make run` does so that Prefect starts and ends without waits."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.settings import get_current_settings

from flows import pipeline
from flows.quick_imports import quick_imports
from tasks.workspace import Workspace


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of this process, which a test may change."""
    changed = dict(os.environ)
    monkeypatch.setattr(os, "environ", changed)
    return changed


def test_imports_look_for_no_garbage_and_leave_nothing_to_look_through() -> None:
    frozen = gc.get_freeze_count()
    with contextlib.suppress(ZeroDivisionError), quick_imports():
        assert not gc.isenabled()
        raise ZeroDivisionError
    try:
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()


def test_flow_on_a_temporary_server_has_no_heart_for_which_it_would_wait_at_its_end(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def server(_workspace: Workspace) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(client={}, wait_until_ready=lambda: None)

    monkeypatch.setattr(pipeline, "temporary_server", server)
    with contextlib.ExitStack() as stack:
        pipeline._use_server(Workspace.at(tmp_path), stack)
        assert get_current_settings().flows.heartbeat_frequency is None


def test_flow_on_a_server_of_its_own_has_the_heartbeats_that_tell_of_its_end(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    monkeypatch.setattr(pipeline, "check_access", lambda _: None)
    with contextlib.ExitStack() as stack:
        pipeline._use_server(Workspace.at(tmp_path), stack)
        assert get_current_settings().flows.heartbeat_frequency == 180
