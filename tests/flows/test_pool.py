"""Attempts that a run sent to workers, if the server reports their states in an unexpected order."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed, Running, Scheduled

from flows import remote_stages
from flows.silence import Silence
from tasks.errors import TransientError
from tasks.params import load_settings
from tasks.runs.outages import Outages
from tasks.runs.run_context import DeployedRun, RunContext
from tasks.runs.stage_failure import Remedy, StageFailed
from tasks.workspace import Workspace
from tests.conftest import PARAMS


class EndOfTestError(Exception):
    """Ends what would go on for ever."""


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

    def message(self, run: UUID) -> dict[str, Any]:
        if self.ids[run] == BROKEN:
            return {"failure": {"reason": "no images", "said": "", "command": "", "remedy": "fix"}}
        return {"result": {"entry": {"cmd": "python"}, "costs": []}} if self.completed else {"heartbeat": 1}

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
    stand_in_for_prefect(server, monkeypatch)
    return server


def stand_in_for_prefect(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def client(**_: Any) -> Iterator[Server]:
        yield server

    monkeypatch.setattr(remote_stages, "get_client", client)
    monkeypatch.setattr(remote_stages, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(remote_stages, "flow_run", SimpleNamespace(id="run", run_count=1, name="bold-owl"))
    monkeypatch.setattr(remote_stages, "read_message", lambda client, run: client.message(run))


def test_result_that_came_just_before_another_stage_failed_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged: list[str] = []
    monkeypatch.setattr(remote_stages, "list_inputs", lambda *_: [])
    monkeypatch.setattr(remote_stages, "push", lambda *_, **__: None)
    monkeypatch.setattr(remote_stages, "merge_lock_entry", lambda _workspace, stage, *_: merged.append(stage))
    (tmp_path / "params.yaml").touch()
    context = RunContext(Workspace.at(tmp_path), DeployedRun(tmp_path, "manual", "0" * 40, "test", print))
    pool = remote_stages._WorkPool("gpu", load_settings(PARAMS.parent).run, context)
    with pytest.raises(StageFailed, match="no images"):
        pool.run([FAST, BROKEN])
    assert merged == [FAST]


class Unlucky(Server):
    """The first two attempts find that something outside doesn't answer."""

    def message(self, run: UUID) -> dict[str, Any]:
        if list(self.ids).index(run) < 2:
            return {"failure": {"reason": "S3 is down", "said": "", "command": "", "remedy": "wait"}}
        return {"result": {"entry": {"cmd": "python"}, "costs": []}}

    def _state(self, _stage: str) -> State[Any]:
        return Completed() if len(self.ids) > 2 else Failed()


@pytest.mark.parametrize("limit_s", [7200.0, 7.0])
def test_outage_on_a_worker_or_of_the_remote_is_waited_for_and_is_no_retry(
    limit_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, pauses, merged = Unlucky(), list[float](), list[str]()
    stand_in_for_prefect(server, monkeypatch)
    down = iter([StageFailed(FAST, "the remote is down", "", "dvc push", Remedy.WAIT)])

    def push(*_: object, **__: object) -> None:
        for failure in down:
            raise failure

    monkeypatch.setattr(remote_stages, "_POLL_S", 0.01)
    monkeypatch.setattr(remote_stages, "list_inputs", lambda *_: ["out"])
    monkeypatch.setattr(remote_stages, "push", push)
    monkeypatch.setattr(remote_stages, "merge_lock_entry", lambda _workspace, stage, *_: merged.append(stage))
    (tmp_path / "params.yaml").touch()
    deployed = DeployedRun(tmp_path, "manual", "0" * 40, "test", print)
    context = RunContext(Workspace.at(tmp_path), deployed, Outages(pauses.append))
    settings = load_settings(PARAMS.parent).run.model_copy(update={"stage_retries": 0, "outage_limit_s": limit_s})
    pool = remote_stages._WorkPool("gpu", settings, context)
    if limit_s > 7:
        pool.run([FAST])
        assert (merged, len(pauses)) == ([FAST], 3)
    else:
        with pytest.raises(StageFailed, match=r"S3 is down; this run has waited 7.0.s for outages"):
            pool.run([FAST])
        assert sum(pauses) == 7  # two first pauses together are longer, however chance shortens them


class Idle(Server):
    """Nobody takes the stage, or the server doesn't answer; the watching run's clock goes on meanwhile."""

    def __init__(self, clock: list[float], *, answers: bool = True, workers: int = 0, paused: bool = False) -> None:
        super().__init__()
        self._clock, self._answers, self._workers, self._paused = clock, answers, workers, paused

    def _state(self, _stage: str) -> State[Any]:
        self._clock[0] += 600
        if self._clock[0] > 100_000:
            raise EndOfTestError
        if not self._answers:
            raise httpx.ConnectError("refused")
        return Scheduled()

    def read_work_pool(self, _name: str) -> Any:
        return SimpleNamespace(is_paused=self._paused)

    def read_workers_for_work_pool(self, _name: str, **_: Any) -> list[str]:
        return ["a worker"] * self._workers


LIMIT = r"2.h.00.min \(run\.outage_limit_s\)\."


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ({}, rf"no worker of pool gpu has taken it for {LIMIT} Start one: make worker POOL=gpu"),
        ({"workers": 1, "paused": True}, "no worker of pool gpu has taken it"),
        ({"answers": False}, rf"Prefect's server has not answered for {LIMIT} Check that it runs"),
    ],
)
def test_wait_for_a_worker_or_for_the_server_ends_and_says_what_to_check(
    server: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TransientError, match=told):
        wait_in_vain(Idle(now := [0.0], **server), now, tmp_path, monkeypatch)
    assert 7200 < now[0] < 10_000


def test_wait_for_a_worker_that_is_busy_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EndOfTestError):
        wait_in_vain(Idle(now := [0.0], workers=1), now, tmp_path, monkeypatch)


def wait_in_vain(server: Server, now: list[float], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a stage to the pool by a clock that the server sets."""
    stand_in_for_prefect(server, monkeypatch)
    monkeypatch.setattr(remote_stages, "_POLL_S", 0)
    monkeypatch.setattr(remote_stages, "Silence", lambda: Silence(lambda: now[0]))
    monkeypatch.setattr(remote_stages, "list_inputs", lambda *_: [])
    monkeypatch.setattr(remote_stages, "push", lambda *_, **__: None)
    (folder / "params.yaml").touch()
    context = RunContext(Workspace.at(folder), DeployedRun(folder, "manual", "0" * 40, "test", print))
    remote_stages._WorkPool("gpu", load_settings(PARAMS.parent).run, context).run([FAST])


@pytest.mark.parametrize("outage_s", [60.0, 9000.0])
def test_stage_that_cannot_be_sent_is_sent_when_the_server_answers_again(
    outage_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Down(Server):
        def read_deployment_by_name(self, name: str) -> Any:
            if sum(pauses) < outage_s:
                raise httpx.ConnectError("refused")
            return super().read_deployment_by_name(name)

    pauses = list[float]()
    stand_in_for_prefect(Down(), monkeypatch)
    monkeypatch.setattr(remote_stages, "list_inputs", lambda *_: [])
    (tmp_path / "params.yaml").touch()
    deployed = DeployedRun(tmp_path, "manual", "0" * 40, "test", print)
    context = RunContext(Workspace.at(tmp_path), deployed, Outages(pauses.append))
    pool = remote_stages._WorkPool("gpu", load_settings(PARAMS.parent).run, context)
    error, told = (TransientError, "doesn't answer") if outage_s > 7200 else (StageFailed, "no images")
    with pytest.raises(error, match=told):
        pool.run([BROKEN])
    assert sum(pauses) >= min(outage_s, 7100)  # attempts in vain count too


def test_silence_counts_from_what_was_new_last() -> None:
    now = [0.0]
    silence = Silence(lambda: now[0])
    longer = []
    for now[0], said in ((5.0, "a"), (15.0, "a"), (16.0, "b"), (26.0, "b"), (27.0, "b")):
        longer.append(silence.is_longer(said, 10))
    assert longer == [False, False, False, False, True]


def test_silence_that_was_restarted_counts_anew() -> None:
    now = [0.0]
    silence = Silence(lambda: now[0])
    silence.is_longer("a", 10)
    now[0] = 100.0
    silence.restart()
    assert not silence.is_longer("a", 10)
