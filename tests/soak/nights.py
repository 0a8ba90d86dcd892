"""The nights as Prefect's server knows them, and what their logs tell."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Any

from tests.flows.project import ENDED, Api
from tests.soak.record import Night

HEALING = re.compile(
    r"Resumes the unfinished run|is restored|is removed, because|^Removed .*left|is made anew|is set back to"
    r"|^Stopped \d+ processes|damaged files of|The next attempt is in|Retry \d+/\d+ will start|had been killed. Auto"
)
"""Lines of a log that tell of a repair, of work that goes on, or of a new attempt."""
COMMITTED = re.compile(r"^Committed (\w+) on runs/nightly")
_PAGE = 200


def read_nights(api: Api, deployment: str, logs: bool) -> list[Night]:
    """All runs of the schedule that are due, by their times."""
    runs: list[dict[str, Any]] = []
    wanted = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": _PAGE}
    while page := api.post("/flow_runs/filter", **wanted, offset=len(runs)):
        runs += page
    due = [run for run in runs if (_seconds(run["expected_start_time"]) or 0.0) <= time.time()]
    return [_night(api, run, logs) for run in due]


def _night(api: Api, run: dict[str, Any], logs: bool) -> Night:
    log = api.log(run["id"]) if logs else ""
    lines = log.splitlines()
    commits = [found[1] for line in lines if (found := COMMITTED.match(line))]
    state = run["state"]
    return Night(
        run_id=run["id"],
        name=run["name"],
        due=_seconds(run["expected_start_time"]) or 0.0,
        began=_seconds(run["start_time"]),
        ended=_seconds(run["end_time"]) if state["type"] in ENDED else None,
        state=state["type"] if state["type"] != "SCHEDULED" else state["name"].upper(),
        reason=(state.get("message") or "").strip(),
        healed=tuple(line for line in lines if HEALING.search(line)),
        commit=commits[-1] if commits else "",
        log=log,
        taken=_taken(api, run["id"]) if logs else None,
    )


def _taken(api: Api, run_id: str) -> float | None:
    times = [state["timestamp"] for state in api.states(run_id) if state["type"] == "PENDING"]
    return _seconds(min(times)) if times else None


def _seconds(moment: str | None) -> float | None:
    return None if moment is None else datetime.fromisoformat(moment).timestamp()
