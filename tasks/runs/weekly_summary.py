"""The summary of a week of nightly runs, as Markdown."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from tasks.markdown_tables import duration, markdown_table, size
from tasks.runs.accuracy_regression import describe_accuracy, describe_regression
from tasks.runs.costs import Costs
from tasks.runs.git import git, read_blob, tip
from tasks.workspace import METRICS, Workspace

WEEK = timedelta(days=7)
_HEALED = {
    "Resumes the unfinished run": "nights that continued an unfinished one",
    "The next attempt is in": "pauses because something outside didn't answer",
    "was cut while it was written": "files that a kill had cut, restored",
    "is made anew, because git can't use it": "folders that a kill had broken, made anew",
    "processes that a killed run had left": "times that processes of a killed run were stopped",
    "held damaged files": "times that damaged files of DVC's cache were removed",
}
"""Part of a line of a run's log -> what was healed."""
_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Night:
    """One run of the deployment.

    Attributes:
        state: its type, in capitals, such as COMPLETED.
        seconds: how long it worked.
    """

    state: str
    seconds: float


@dataclass(frozen=True)
class Week:
    """What is known of a week.

    Attributes:
        begins, ends: its time.
        nights: the runs that were due in it.
        retries: how often a stage was tried again.
        log: the lines that the runs logged.
        before, now: reports/metrics.json when the week began, and of the last night; None if there was none.
        costs: of the stages that ran in this clone in that time.
        disk: what -> megabytes.
    """

    begins: datetime
    ends: datetime
    nights: Sequence[Night]
    retries: int
    log: Iterable[str]
    before: Mapping[str, Any] | None
    now: Mapping[str, Any] | None
    costs: Sequence[Costs]
    disk: Mapping[str, float]


def describe_week(week: Week) -> str:
    """The summary as Markdown: nights, failures healed, images, accuracy, time, disk."""
    rows = [*_nights(week), *_healed(week), *_images(week.costs), *_accuracy(week), *_time(week)]
    rows += [[f"disk: {what}", size(megabytes)] for what, megabytes in week.disk.items()]
    title = f"# {week.begins:%Y-%m-%d} to {week.ends:%Y-%m-%d}"
    return "\n\n".join(filter(None, (title, markdown_table(["", "this week"], rows), _warning(week))))


def metrics_at(clone: Path, branch: str, when: datetime) -> dict[str, Any] | None:
    """The metrics that the branch held at a time; None if it had none."""
    if tip(clone, branch) is None:
        return None
    commit = git(clone, "rev-list", "--first-parent", "-1", f"--before={when.isoformat()}", branch)
    content = read_blob(clone, commit, METRICS) if commit else None
    return None if content is None else dict(json.loads(content))


def costs_between(history: Iterable[Costs], begins: datetime, ends: datetime) -> list[Costs]:
    """The entries of a history whose stage finished in that time."""
    return [one for one in history if begins <= datetime.fromisoformat(one["finished_at"]) <= ends]


def disk_of(workspace: Workspace) -> dict[str, float]:
    """Megabytes of DVC's cache in the clone and of the folder .rootstock, and what is free beside them."""
    state = workspace.shared_costs.parent
    folders = {"DVC's cache": workspace.clone / ".dvc/cache", state.name: state}
    free = shutil.disk_usage(workspace.clone).free / _MEGABYTE
    return {**{name: _megabytes(folder) for name, folder in folders.items()}, "free": free}


def _nights(week: Week) -> list[list[str]]:
    states = Counter(night.state for night in week.nights)
    rows = [["nights that were due", str(len(week.nights))]]
    return rows + [[f"nights: {state.lower()}", str(number)] for state, number in states.most_common()]


def _healed(week: Week) -> list[list[str]]:
    found = Counter(told for line in week.log for part, told in _HEALED.items() if part in line)
    rows = [["healed: stages tried again", str(week.retries)]]
    return rows + [[f"healed: {told}", str(number)] for told, number in found.most_common()]


def _images(costs: Sequence[Costs]) -> list[list[str]]:
    prepared = [one for one in costs if one["stage"] == "prepare" and "accepted" in one]
    ingested = [one for one in costs if one["stage"] == "ingest" and "packed" in one]
    if not prepared and not ingested:
        return [["images", "no stage had to read any"]]
    rows = [["images: new or changed", f"{sum(one['packed'] for one in ingested):,}"]]
    if prepared:
        last = prepared[-1]
        rows += [["images: in use", f"{last['accepted']:,}"], ["images: in quarantine", f"{last['quarantined']:,}"]]
    return rows


def _accuracy(week: Week) -> list[list[str]]:
    if week.now is None:
        return [["champion", "none yet"]]
    test = _champion(week.now)
    rows = [["champion", week.now["champion"]], ["its test accuracy", describe_accuracy(test)]]
    if week.before is not None:
        change = 100 * (test["accuracy"] - _champion(week.before)["accuracy"])
        rows.append(["change in the week", f"{change:+.1f} points ({week.before['champion']} before)"])
    return rows


def _champion(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    test: Mapping[str, Any] = metrics["strategies"][metrics["champion"]]["test"]
    return test


def _time(week: Week) -> list[list[str]]:
    finished = [night.seconds for night in week.nights if night.state == "COMPLETED"]
    rows = [["time: all stages of this clone", duration(sum(one["seconds"] for one in week.costs))]]
    if finished:
        rows += [["time: usual night", duration(median(finished))], ["time: longest night", duration(max(finished))]]
    return rows


def _warning(week: Week) -> str:
    if not any(night.state == "COMPLETED" for night in week.nights):
        return "**No night finished in this week.**"
    return describe_regression(week.before, week.now) or ""


def _megabytes(folder: Path) -> float:
    """Disk use of a folder; files that go meanwhile don't count."""
    total, waiting = 0, [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
    return total / _MEGABYTE
