"""A run that needs Prefect's server while it doesn't answer."""

from __future__ import annotations

import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows import artifacts, server_outages
from flows.server import free_port
from tasks import stages
from tasks.errors import TransientError
from tasks.params import load_settings
from tasks.runs.outages import Outages
from tasks.runs.run_context import DeployedRun, RunContext
from tasks.workspace import Workspace
from tests.conftest import PARAMS

SETTINGS = load_settings(PARAMS.parent).run


def deployed(folder: Path, outages: Outages) -> RunContext:
    return RunContext(Workspace.at(folder), DeployedRun(folder, "nightly", "0" * 40, "test", print), outages)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logger = logging.getLogger("test")
    for module in (server_outages, stages):
        monkeypatch.setattr(module, "get_run_logger", lambda: logger)
    return caplog


def test_run_ends_when_the_server_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    pauses = list[float]()
    asked = list[str]()
    servers = list[HTTPServer]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if len(asked) > 1 else 503)  # a proxy answers before the server does
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            servers.append(HTTPServer(("127.0.0.1", port), Handler))
            threading.Thread(target=servers[0].serve_forever, daemon=True).start()

    try:
        server_outages.wait_for_server(deployed(tmp_path, Outages(pause)), SETTINGS)
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
    assert (len(pauses), asked) == (3, ["/api/admin/version"] * 2)


def test_run_whose_server_is_gone_for_good_ends_and_says_where_its_results_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    pauses = list[float]()
    server_outages.wait_for_server(deployed(tmp_path, Outages(pauses.append)), SETTINGS)
    assert SETTINGS.outage_limit_s - 10 < sum(pauses) <= SETTINGS.outage_limit_s  # attempts in vain count too
    assert said.messages[-1].startswith("The results are on the branch runs/nightly. Prefect's server doesn't answer")


@pytest.mark.parametrize(("status", "is_outage"), [(500, True), (503, True), (404, False), (401, False)])
def test_refusal_is_no_outage(status: int, is_outage: bool) -> None:
    request = httpx.Request("GET", "http://127.0.0.1")
    error = httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))
    with pytest.raises(TransientError if is_outage else httpx.HTTPStatusError), server_outages.needs_server():
        raise error


def test_artifacts_wait_for_the_server_and_the_work_does_not(
    monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    tried, shown = list[tuple[str, int]](), list[str]()
    down = True

    def create(markdown: str, *, key: str, description: str) -> None:
        tried.append((key, PREFECT_CLIENT_MAX_RETRIES.value()))
        if down:
            raise httpx.ConnectError("refused")
        shown.append(markdown)

    monkeypatch.setattr(artifacts, "create_markdown_artifact", create)
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: logging.getLogger("test"))
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 7}):
        artifacts._show("report", "How good.", lambda: "the report")
        artifacts._show("costs", "What it cost.", lambda: "the costs")
        down = False
        artifacts.show_the_rest()
        artifacts.show_the_rest()
    assert tried == [("report", 1), ("costs", 1), ("report", 7), ("costs", 7)]
    assert shown == ["the report", "the costs"]
    assert said.messages == []
