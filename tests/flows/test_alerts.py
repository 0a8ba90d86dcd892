"""Alerts on a real Prefect server: they are made once, and a webhook gets a message about each event."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from flows.alerts import ACCURACY_DROPPED, ALERTS, HEARTBEAT_S, WEBHOOK_VARIABLE
from flows.lost_runs import SILENT_S
from flows.server import free_port, served
from tasks.workspace import Workspace
from tests.conftest import PROJECT
from tests.flows.project import Api, Project
from tests.servers.receiver import Receiver, receiver
from tests.waiting import wait_until

CANARY = "canary-8b1f"
HEARTBEATS = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
QUICKER = """
import dataclasses, sys
from flows import alerts
alerts.ALERTS = tuple(dataclasses.replace(one, silence_s=one.silence_s and 10.0) for one in alerts.ALERTS)
sys.exit(alerts.main())
"""
"""The least that Prefect allows for a silence, instead of minutes."""
WATCH = """
import sys, time
from prefect import get_client
from flows.lost_runs import LostRuns
watcher = LostRuns(1)
with get_client(sync_client=True) as client:
    while sys.argv[1] not in watcher.look(client):
        time.sleep(0.5)
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chat() -> Iterator[Receiver]:
    with receiver(f"/hooks/{CANARY}") as taken:
        yield taken


@pytest.fixture(scope="module")
def api(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copytree(Workspace.at(template).prefect_home, Workspace.at(folder).prefect_home)
    with served(Workspace.at(folder), free_port()) as server:
        server.wait_until_ready()
        yield Api(server.api_url, server.login)


def make_alerts(api: Api, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **api.client, **environment}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=PROJECT, env=variables, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def told(api: Api, chat: Receiver) -> list[str]:
    """What the program says when it has made the alerts twice."""
    runs = [make_alerts(api, "-c", QUICKER, **{WEBHOOK_VARIABLE: chat.address}) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr + runs[1].stderr
    return [run.stdout + run.stderr for run in runs]


def start_run(api: Api, name: str, flow: str = "pipeline") -> dict[str, Any]:
    """A run that claims to work, as a worker would tell the server of it."""
    flow_id = api.post("/flows/", name=flow)["id"]
    run: dict[str, Any] = api.post("/flow_runs/", flow_id=flow_id, name=name, state={"type": "RUNNING"})
    return run


def end(api: Api, run: dict[str, Any], kind: str, **state: Any) -> None:
    api.post(f"/flow_runs/{run['id']}/set_state", state={"type": kind, **state}, force=True)


def emit(api: Api, event: str, resource: dict[str, str], **more: Any) -> None:
    when = {"occurred": datetime.now(UTC).isoformat(), "id": str(uuid.uuid4())}
    api.post_list("/events", [{"event": event, "resource": resource, **when, **more}])


def wait_for(chat: Receiver, part: str) -> str:
    wait_until(lambda: any(part in text for text in chat.texts()), f"a message with {part!r}")
    return next(text for text in chat.texts() if part in text)


def test_alerts_are_made_once_however_often_they_are_asked_for(api: Api, told: list[str]) -> None:
    assert [line.split(":")[0] for line in told[0].splitlines()[:-1]] == ["made"] * len(ALERTS)
    assert [line.split(":")[0] for line in told[1].splitlines()[:-1]] == ["brought up to date"] * len(ALERTS)
    names = [one["name"] for one in api.post("/automations/filter")]
    assert sorted(names) == sorted(alert.name for alert in ALERTS)


def test_alert_is_kept_under_no_former_name(api: Api, told: list[str], chat: Receiver) -> None:
    made = {one["name"]: one for one in api.post("/automations/filter")}
    (renamed,) = [alert for alert in ALERTS if alert.former_names]
    same = {key: made[renamed.name][key] for key in ("description", "trigger", "actions")}
    for name in renamed.former_names:
        api.post("/automations/", name=name, **same)
    assert make_alerts(api, "-c", QUICKER, **{WEBHOOK_VARIABLE: chat.address}).returncode == 0
    assert sorted(one["name"] for one in api.post("/automations/filter")) == sorted(alert.name for alert in ALERTS)


def test_address_of_the_webhook_is_never_shown(api: Api, told: list[str]) -> None:
    shown = [*told, str(api.post("/automations/filter")), str(api.post("/block_documents/filter"))]
    assert "rootstock-alerts" in shown[-1]
    assert not any(CANARY in text for text in shown)


@pytest.mark.parametrize(("kind", "state"), [("FAILED", "Failed"), ("CRASHED", "Crashed")])
def test_failed_run_is_reported_with_its_reason(
    api: Api, told: list[str], chat: Receiver, kind: str, state: str
) -> None:
    run = start_run(api, f"run-{kind}")
    end(api, run, kind, message='the disk is "full"\nreally: <!channel> & @here.jpg')
    text = wait_for(chat, f"run-{kind}")
    told = 'the disk is "full"\nreally: &lt;!channel&gt; &amp; @\u200bhere.jpg'  # nobody is called
    assert text.startswith(f"pipeline / run-{kind} ended as {state}: {told}")
    assert run["id"] in text


def test_run_of_another_flow_is_not_reported(api: Api, told: list[str], chat: Receiver) -> None:
    end(api, start_run(api, "foreign", flow="something else"), "FAILED")
    end(api, start_run(api, "ours"), "FAILED")
    wait_for(chat, "ours")
    assert not any("foreign" in text for text in chat.texts())


def test_late_run_is_reported(api: Api, told: list[str], chat: Receiver) -> None:
    end(api, start_run(api, "tardy"), "SCHEDULED", name="Late")
    assert "no worker has taken it" in wait_for(chat, "tardy")


def test_nights_of_which_none_finishes_are_reported_and_manual_runs_do_not_count(
    api: Api, told: list[str], chat: Receiver
) -> None:
    flow = api.post("/flows/", name="pipeline")["id"]
    always = {"schedule": {"cron": "0 3 * * *"}, "active": True}
    for name in ("nightly", "manual"):
        api.post("/deployments/", name=name, flow_id=flow, schedules=[always] if name == "nightly" else [])
    night, by_hand = api.start_run("nightly"), api.start_run("manual")
    end(api, {"id": night}, "COMPLETED")
    end(api, {"id": by_hand}, "COMPLETED")
    assert "No run of nightly has finished for 26 hours" in wait_for(chat, "has finished for 26 hours")
    assert not any("manual" in text for text in chat.texts())


@pytest.mark.parametrize(("paused", "active"), [(True, True), (False, False), (False, True)])
def test_message_about_nights_says_that_they_are_paused(paused: bool, active: bool) -> None:
    from prefect.server.events.jinja_filters import all_filters
    from prefect.server.utilities.user_templates import register_user_template_filters, render_user_template_sync

    register_user_template_filters(all_filters)
    (alert,) = [one for one in ALERTS if one.deployment]
    deployment = SimpleNamespace(name="nightly", paused=paused, schedules=[SimpleNamespace(active=active)])
    text = render_user_template_sync(alert.text, {"deployment": deployment})
    assert text.startswith("nightly is paused." if paused or not active else "No run of nightly has finished")


def test_dropped_accuracy_is_reported(api: Api, told: list[str], chat: Receiver) -> None:
    """That a run emits this event: tests/flows/test_pipeline.py."""
    emit(api, ACCURACY_DROPPED, {"prefect.resource.id": "rootstock.champion"}, payload={"text": '@all: "0.9" to 0.5'})
    assert wait_for(chat, "to 0.5") == '@\u200ball: "0.9" to 0.5'


def test_killed_run_is_reported_as_silent_and_set_to_crashed_by_a_worker(
    api: Api, told: list[str], chat: Receiver, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["definitions"]["job"]["env"]
    project.environment |= {**api.client, HEARTBEATS: deployed[HEARTBEATS]}
    project.behave("ingest", "hang")
    before = {run["id"] for run in api.post("/flow_runs/filter")}

    def begun() -> list[Any]:
        return [
            run for run in api.post("/flow_runs/filter") if run["id"] not in before and run["state_type"] == "RUNNING"
        ]

    with project.command("-m", "flows.pipeline") as run:
        project.processes()  # the stage may begin before its run is known to the server
        wait_until(lambda: bool(begun()), "the flow to begin")
        (gone,) = begun()
        api.wait_for_log(gone["id"], "Running stage 'ingest'")
        run.kill()
    assert "has sent no heartbeat" in wait_for(chat, gone["name"])
    assert api.state(gone["id"]) == "RUNNING"
    looks = subprocess.run(
        [sys.executable, "-c", WATCH, gone["name"]], env={**os.environ, **api.client}, cwd=PROJECT, check=False
    )
    assert looks.returncode == 0
    assert api.state(gone["id"]) == "CRASHED"
    wait_for(chat, f"{gone['name']} ended as Crashed: It stopped sending heartbeats")


def test_heartbeats_come_as_often_as_is_expected() -> None:
    from prefect.server.events.ordering import PRECEDING_EVENT_LOOKBACK

    deployed = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["definitions"]["job"]["env"]
    assert float(deployed[HEARTBEATS]) == HEARTBEAT_S
    alert_s = min(one.silence_s for one in ALERTS if one.silence_s)
    assert alert_s > PRECEDING_EVENT_LOOKBACK.total_seconds()
    assert alert_s > SILENT_S >= 3 * HEARTBEAT_S


@pytest.mark.parametrize("address", ["ftp://x/canary-8b1f", "canary-8b1f"])
def test_wrong_address_is_refused_without_showing_it(api: Api, address: str) -> None:
    refused = make_alerts(api, "-m", "flows.alerts", **{WEBHOOK_VARIABLE: address})
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"SettingsError: {WEBHOOK_VARIABLE} must be")
    assert CANARY not in refused.stderr


def test_missing_server_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    command = [sys.executable, "-m", "flows.alerts"]
    run = subprocess.run(command, cwd=PROJECT, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 2
    assert "PREFECT_API_URL must name" in run.stderr
