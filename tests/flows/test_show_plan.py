"""The plan before the work: a source that can't be used ends the run, one that doesn't answer is left to `ingest`."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flows import artifacts
from tasks.errors import DataError, RootstockError, SourceError, TransientError
from tasks.params import load_settings
from tasks.runs.run_context import RunContext
from tasks.workspace import Workspace
from tests.conftest import PARAMS


@pytest.mark.parametrize("error", [SourceError("no such bucket"), DataError("one class"), TransientError("it is busy")])
def test_listing_that_fails_for_a_while_ends_no_run(
    error: RootstockError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(artifacts.plan, "run", fail)
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: logging.getLogger("test"))
    context, settings = RunContext(Workspace.at(tmp_path)), load_settings(PARAMS.parent)
    if isinstance(error, TransientError):
        assert not artifacts.show_plan(context, settings)
        assert "The artifact plan could not be made: TransientError: it is busy" in caplog.text
    else:
        with pytest.raises(type(error)):
            artifacts.show_plan(context, settings)
