"""Runs whose process is gone: they are told from runs of which a silent server knows nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import SetStateStatus

from flows.lost_runs import EVERY_S, SILENT_S, STUCK_S, LostRuns
from flows.start import COMMIT_VARIABLE


class Server:
    """Stands for Prefect's: its runs, their last heartbeats, and what was set to Crashed."""

    def __init__(self) -> None:
        self.now = 0.0
        self.answers = True
        self.runs: dict[str, Any] = {}
        self.deployments: dict[UUID, Any] = {}
        self.beating: set[str] = set()
        self.crashed: list[str] = []
        self.watcher = LostRuns(clock=lambda: self.now)

    def start(
        self,
        name: str,
        state: StateType = StateType.RUNNING,
        heartbeats: bool = True,
        deployed_with: dict[str, str] | None = None,
    ) -> None:
        deployment = None if deployed_with is None else uuid4()
        if deployment is not None:
            self.deployments[deployment] = SimpleNamespace(job_variables={"env": deployed_with})
        self.runs[name] = SimpleNamespace(
            id=uuid4(),
            name=name,
            state=SimpleNamespace(type=state, id=uuid4(), name=state.name),
            beat=None,
            deployment_id=deployment,
        )
        if heartbeats:
            self.beating.add(name)

    def pass_time(self, seconds: float, looks: bool = True) -> None:
        """Let time pass: runs send heartbeats if the server answers, and the watcher looks."""
        end = self.now + seconds
        while self.now < end:
            self.now += EVERY_S
            for name in self.beating if self.answers else ():
                self.runs[name].beat = uuid4()
            if looks:
                try:
                    self.watcher.look(self)
                except httpx.ConnectError:
                    self.watcher.forget()

    def read_flow_runs(self, **_: Any) -> list[Any]:
        if not self.answers:
            raise httpx.ConnectError("refused")
        return [run for name, run in self.runs.items() if name not in self.crashed]

    def read_events(self, wanted: Any, **_: Any) -> Any:
        (found,) = [run for run in self.runs.values() if wanted.resource.id == [f"prefect.flow-run.{run.id}"]]
        return SimpleNamespace(events=[SimpleNamespace(id=found.beat)] if found.beat else [])

    def read_deployment(self, deployment: UUID) -> Any:
        return self.deployments[deployment]

    def set_flow_run_state(self, run: UUID, _state: Any) -> Any:
        self.crashed += [name for name, one in self.runs.items() if one.id == run]
        return SimpleNamespace(status=SetStateStatus.ACCEPT)


@pytest.fixture
def server() -> Server:
    server = Server()
    for name in ("gone", "alive"):
        server.start(name)
    server.pass_time(60)
    return server


def test_run_without_heartbeats_is_set_to_crashed_and_no_other(server: Server) -> None:
    server.beating.remove("gone")
    server.pass_time(SILENT_S)
    assert server.crashed == []
    server.pass_time(2 * EVERY_S)
    assert server.crashed == ["gone"]
    server.pass_time(10 * SILENT_S)
    assert server.crashed == ["gone"]


@pytest.mark.parametrize("outage_s", [60, 120, 300, 7200])
def test_outage_of_the_server_is_not_taken_for_the_end_of_its_runs(server: Server, outage_s: float) -> None:
    server.answers = False
    server.pass_time(outage_s)
    server.beating.remove("gone")  # it has died meanwhile
    server.answers = True
    server.pass_time(SILENT_S)
    assert server.crashed == []
    server.pass_time(2 * EVERY_S)
    assert server.crashed == ["gone"]


def test_watcher_that_was_frozen_itself_accuses_nobody(server: Server) -> None:
    beating, server.beating = server.beating, set()
    server.pass_time(10 * SILENT_S, looks=False)  # the whole machine slept
    server.pass_time(EVERY_S)
    server.beating = beating
    server.pass_time(2 * SILENT_S)
    assert server.crashed == []


def test_run_that_never_sent_a_heartbeat_is_lost_only_if_its_deployment_sends_some(server: Server) -> None:
    server.start("make run", heartbeats=False)
    server.start("of another project", heartbeats=False, deployed_with={"OTHER": "x"})
    server.start("killed at once", heartbeats=False, deployed_with={COMMIT_VARIABLE: "0" * 40})
    server.pass_time(SILENT_S)
    assert server.crashed == []
    server.pass_time(10 * SILENT_S)
    assert server.crashed == ["killed at once"]


@pytest.mark.parametrize("state", [StateType.PENDING, StateType.CANCELLING])
def test_run_that_holds_its_slot_without_running_is_set_to_crashed_after_an_hour(
    server: Server, state: StateType
) -> None:
    server.start("stuck", state, heartbeats=False)
    server.pass_time(STUCK_S)
    assert server.crashed == []
    server.pass_time(2 * EVERY_S)
    assert server.crashed == ["stuck"]
