"""The health of the Prefect server at PREFECT_API_URL: login, version, work pools, late runs. The clocks of servers."""

from __future__ import annotations

import email.utils
import http.client
import importlib.metadata
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from flows.server import check_access
from tasks.params import load_settings
from tasks.runs.dvc_state.health import remote_endpoint
from tasks.runs.findings import Finding
from tasks.settings import HERE
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

SKEW_S = 60.0
"""S3 refuses requests whose time differs by 15 minutes; schedules and logs mislead much earlier."""
_SET_CLOCK = "timedatectl set-ntp true"


def check_server(workspace: Workspace, environment: Mapping[str, str]) -> Iterator[Finding]:
    """The server answers, takes the login, is of a fitting version, and workers take the runs."""
    if not environment.get("PREFECT_API_URL"):
        yield Finding("PREFECT_API_URL is not set: make run starts a server of its own")
        return
    check_access(environment)
    os.environ.update(environment)  # Prefect reads it when it is imported
    from prefect import get_client

    with get_client(sync_client=True) as client:
        ours, theirs = importlib.metadata.version("prefect"), client.api_version()
        if ours.split(".")[:2] == theirs.split(".")[:2]:
            yield Finding(f"the server answers, with Prefect {theirs}")
        else:
            yield Finding(f"The server has Prefect {theirs}, and this clone {ours}.", "use one version for both")
        yield from _pools(client, load_settings(workspace.folder).run.work_pools.model_dump().values())
        yield from _late_runs(client)


def _pools(client: SyncPrefectClient, named: Iterable[str]) -> Iterator[Finding]:
    """The work pools of deployments with a schedule, and those that params.yaml names, need a worker."""
    scheduled = {one.work_pool_name for one in client.read_deployments() if any(plan.active for plan in one.schedules)}
    needed = scheduled | (set(named) - {HERE})
    pools = {pool.name: pool for pool in client.read_work_pools()}
    for name in sorted(filter(None, needed - pools.keys())):
        yield Finding(f"The server has no work pool {name}.", f"prefect work-pool create {name} --type process")
    for name, pool in pools.items():
        # The server counts a worker as online for some missed heartbeats, about 90 s.
        if pool.is_paused:
            yield Finding(f"The work pool {name} is paused.", f"prefect work-pool resume {name}")
        elif pool.status is not None and pool.status.value == "READY":
            yield Finding(f"the work pool {name} has a worker")
        elif name in needed:
            yield Finding(f"The work pool {name} has no worker.", f"make worker POOL={name}")
        else:
            yield Finding(f"the work pool {name} has no worker, and no schedule or setting needs one")
        if name in scheduled and pool.concurrency_limit != 1:
            command = f"prefect work-pool set-concurrency-limit {name} 1"
            yield Finding(f"The work pool {name} lets several runs work at the same time.", command)


def _late_runs(client: SyncPrefectClient) -> Iterator[Finding]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName

    late = FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Late"])))
    if runs := client.read_flow_runs(flow_run_filter=late):
        names = ", ".join(run.name for run in runs[:3])
        yield Finding(f"{len(runs)} runs are late ({names}): no worker takes them.", "make worker")
    else:
        yield Finding("no run is late")


def check_clocks(workspace: Workspace, environment: Mapping[str, str]) -> Iterator[Finding]:
    """This machine's clock against those of the Prefect server and of DVC's remote."""
    addresses = (environment.get("PREFECT_API_URL"), environment.get("AWS_ENDPOINT_URL"), remote_endpoint(workspace))
    for address in dict.fromkeys(filter(None, addresses)):
        skew = skew_s(address)
        if skew is None:
            yield Finding(f"{_host(address)} doesn't tell its time")
        elif abs(skew) > SKEW_S:
            yield Finding(f"This machine's clock is {skew:+.0f} s off the clock of {_host(address)}.", _SET_CLOCK)
        else:
            yield Finding(f"this machine's clock agrees with the clock of {_host(address)}")


def skew_s(address: str) -> float | None:
    """This machine's time minus a server's, in seconds; None if the server doesn't tell, or doesn't answer."""
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - the user's own address
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            told = answer.headers["Date"]
    except urllib.error.HTTPError as refused:
        with refused:
            told = refused.headers["Date"]
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return time.time() - email.utils.parsedate_to_datetime(told).timestamp() if told else None


def _host(address: str) -> str:
    """The host of an address, without a password that may be in it."""
    return urllib.request.Request(address).host.rpartition("@")[2]  # noqa: S310
