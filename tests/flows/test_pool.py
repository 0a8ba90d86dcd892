"""What a run does with the attempts that it has sent to workers, when the server tells of them in an awkward order."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed, Running

from flows import remote_stages
from tasks.runs.stage_failure import StageFailed
from tasks.runs.worktrees import Deployed, RunContext
from tasks.settings import load_settings
from tasks.workspace import Workspace
from tests.conftest import PARAMS

FAST, BROKEN = "train@head_replacement", "train@feature_extraction"


class Server:
    """Stands for Prefect's: the quick stage completes just after the run has looked at it; then the other fails."""

    def __init__(self) -> None:
        self.ids: dict[UUID, str] = {}
        self.looks = 0
        self.completed = False
        self.cancelled: list[str] = []

    def read_deployment_by_name(self, _name: str) -> Any:
        return SimpleNamespace(id=uuid4())

    def read_flow_runs(self, **_: Any) -> list[Any]:
        return []

    def create_flow_run_from_deployment(self, _id: UUID, *, parameters: dict[str, Any], **_: Any) -> Any:
        self.ids[made := uuid4()] = parameters["name"]
        return SimpleNamespace(id=made)

    def read_flow_run(self, run: UUID) -> Any:
        return SimpleNamespace(state=self._state(self.ids[run]))

    def set_flow_run_state(self, run: UUID, _state: State[Any]) -> None:
        self.cancelled.append(self.ids[run])

    def report(self, run: UUID) -> dict[str, Any]:
        if self.ids[run] == BROKEN:
            return {"failure": ["no images", "", "", True]}
        return {"entry": {"cmd": "python"}, "costs": []} if self.completed else {"beat": 1}

    def _state(self, stage: str) -> State[Any]:
        if stage == BROKEN:
            return Failed()
        if self.completed:
            return Completed()
        self.completed = True
        return Running()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()

    @contextlib.contextmanager
    def client(**_: Any) -> Iterator[Server]:
        yield server

    monkeypatch.setattr(remote_stages, "get_client", client)
    monkeypatch.setattr(remote_stages, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(remote_stages, "flow_run", SimpleNamespace(id="run", run_count=1, name="bold-owl"))
    monkeypatch.setattr(remote_stages, "read_report", lambda client, run: client.report(run))
    return server


def test_result_that_came_just_before_another_stage_failed_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged: list[str] = []
    monkeypatch.setattr(remote_stages, "inputs", lambda *_: [])
    monkeypatch.setattr(remote_stages, "share", lambda *_, **__: None)
    monkeypatch.setattr(remote_stages, "merge_entry", lambda _folder, stage, *_: merged.append(stage))
    (tmp_path / "params.yaml").touch()
    place = RunContext(Workspace.at(tmp_path), Deployed(tmp_path, "manual", "0" * 40, "test", print))
    pool = remote_stages._Pool("gpu", load_settings(PARAMS.parent).run, place)
    with pytest.raises(StageFailed, match="no images"):
        pool.run([FAST, BROKEN])
    assert merged == [FAST]
