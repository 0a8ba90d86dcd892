"""The weekly summary: what the nightly runs of the last seven days did, as an artifact of Prefect's UI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_client
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)

from flows.alerts import NIGHTLY
from flows.logs import shorten_errors
from flows.start import CLONE_VARIABLE
from tasks.runs.costs import read_experience
from tasks.runs.run_context import safe_name
from tasks.runs.weekly_summary import WEEK, Night, Week, costs_between, describe_week, disk_of, metrics_at
from tasks.workspace import Workspace

KEY = "weekly-summary"
_PAGE = 200


@flow
def summary() -> None:
    """Make the artifact `weekly-summary`."""
    shorten_errors()
    workspace = Workspace.at(Path(os.environ.get(CLONE_VARIABLE, ".")))
    with get_client(sync_client=True) as client:
        text = describe_week(_last_week(client, workspace))
    create_markdown_artifact(text, key=KEY, description="The nightly runs of the last seven days.")


def _last_week(client: Any, workspace: Workspace) -> Week:
    ends = datetime.now(UTC)
    begins = ends - WEEK
    runs = list(_runs(client, begins, ends))
    ids = [run.id for run in runs]
    branch = f"runs/{safe_name(NIGHTLY)}"
    return Week(
        begins,
        ends,
        [Night(run.state_type.value, run.total_run_time.total_seconds()) for run in runs],
        _retries(client, ids),
        _log(client, ids),
        metrics_at(workspace.clone, branch, begins),
        metrics_at(workspace.clone, branch, ends),
        costs_between(read_experience(workspace), begins, ends),
        disk_of(workspace),
    )


def _runs(client: Any, begins: datetime, ends: datetime) -> Iterator[Any]:
    due = FlowRunFilterExpectedStartTime(after_=begins, before_=ends)
    wanted = {
        "flow_filter": FlowFilter(name=FlowFilterName(any_=["pipeline"])),
        "deployment_filter": DeploymentFilter(name=DeploymentFilterName(any_=[NIGHTLY])),
        "flow_run_filter": FlowRunFilter(expected_start_time=due),
    }
    offset = 0
    while page := client.read_flow_runs(**wanted, limit=_PAGE, offset=offset):
        yield from page
        offset += len(page)


def _retries(client: Any, runs: list[UUID]) -> int:
    """How often tasks of the runs began again."""
    offset = total = 0
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=runs))
    while runs and (page := client.read_task_runs(flow_run_filter=wanted, limit=_PAGE, offset=offset)):
        total += sum(max(one.run_count - 1, 0) for one in page)
        offset += len(page)
    return total


def _log(client: Any, runs: list[UUID]) -> Iterator[str]:
    offset = 0
    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=runs))
    while runs and (page := client.read_logs(wanted, limit=_PAGE, offset=offset)):
        yield from (line.message for line in page)
        offset += len(page)
