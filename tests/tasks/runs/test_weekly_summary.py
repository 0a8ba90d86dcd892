"""The weekly summary: what it says of a week, and where its numbers come from."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.runs.git import git
from tasks.runs.weekly_summary import Night, Week, costs_between, describe_week, disk_of, metrics_at
from tasks.workspace import Workspace

END = datetime(2026, 3, 9, 6, tzinfo=UTC)
BEGIN = END - timedelta(days=7)


def cost(stage: str, day: int, **numbers: int) -> dict[str, Any]:
    return {"stage": stage, "finished_at": f"2026-03-0{day}T03:00:00+00:00", "seconds": 60.0, **numbers}


COSTS = [
    cost("ingest", 3, packed=1200, refused=1),
    cost("prepare", 3, accepted=900, quarantined=7),
    cost("ingest", 4, packed=34, refused=1),
    cost("prepare", 4, accepted=930, quarantined=8),
]
COMPLETED = [Night("COMPLETED", seconds) for seconds in (600, 600, 600, 600, 1200)]
LOG = ["Resumes the unfinished run bold-owl (it was killed).", "S3: 503\nThe next attempt is in 5 s.", "another line"]


def metrics(accuracy: float, champion: str = "fine_tuning") -> dict[str, Any]:
    test = {"accuracy": accuracy, "accuracy_ci95": [accuracy - 0.02, accuracy + 0.02], "n": 200}
    return {"champion": champion, "strategies": {champion: {"test": test}}}


def week(**changes: Any) -> Week:
    known: dict[str, Any] = {
        "nights": [*COMPLETED, Night("FAILED", 5), Night("CRASHED", 9)],
        "retries": 2,
        "log": LOG,
        "before": metrics(0.93),
        "now": metrics(0.94),
        "costs": COSTS,
        "disk": {"DVC's cache": 2500.0, "free": 80000.0},
    }
    return Week(BEGIN, END, **{**known, **changes})


def cells(text: str) -> dict[str, str]:
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {row[0].strip(): row[1].strip().replace("\u00a0", " ") for row in rows[2:]}


def test_summary_says_what_the_nights_did() -> None:
    text = describe_week(week())
    assert text.startswith("# 2026-03-02 to 2026-03-09\n")
    assert cells(text) == {
        "nights that were due": "7",
        "nights: completed": "5",
        "nights: failed": "1",
        "nights: crashed": "1",
        "healed: stages tried again": "2",
        "healed: nights that continued an unfinished one": "1",
        "healed: pauses because something outside didn't answer": "1",
        "images: new or changed": "1,234",
        "images: in use": "930",
        "images: in quarantine": "8",
        "champion": "fine_tuning",
        "its test accuracy": "0.9400 (95 % interval 0.9200 to 0.9600, 200 images)",
        "change in the week": "+1.0 points (fine_tuning before)",
        "time: all stages of this clone": "4 min",
        "time: usual night": "10 min",
        "time: longest night": "20 min",
        "disk: DVC's cache": "2.5 GB",
        "disk: free": "80.0 GB",
    }


def test_summary_warns_of_a_week_without_a_finished_night_and_of_a_drop() -> None:
    assert describe_week(week(nights=[Night("FAILED", 1.0)])).endswith("\n\n**No night finished in this week.**")
    assert "The test accuracy dropped from 0.9300" in describe_week(week(now=metrics(0.8)))


def test_summary_of_a_week_in_which_nothing_happened() -> None:
    text = describe_week(week(nights=[], retries=0, log=[], before=None, now=None, costs=[], disk={}))
    assert cells(text)["champion"] == "none yet"
    assert cells(text)["images"] == "no stage had to read any"


def test_costs_of_other_weeks_do_not_count() -> None:
    others = [{**COSTS[0], "finished_at": f"2026-03-{day}T06:30:00+00:00"} for day in ("01", "09")]
    assert costs_between([*others, *COSTS], BEGIN, END) == COSTS


def test_metrics_are_those_of_the_branch_at_that_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q", "-b", "runs/nightly")
    (tmp_path / "reports").mkdir()
    for days, accuracy in ((10, 0.9), (8, 0.91), (1, 0.95)):
        (tmp_path / "reports/metrics.json").write_text(json.dumps(metrics(accuracy)))
        monkeypatch.setenv("GIT_COMMITTER_DATE", (END - timedelta(days=days)).isoformat())
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "-q", "-m", "A night")
    assert metrics_at(tmp_path, "runs/nightly", BEGIN) == metrics(0.91)
    assert metrics_at(tmp_path, "runs/nightly", END) == metrics(0.95)
    assert metrics_at(tmp_path, "runs/nightly", BEGIN - timedelta(days=30)) is None
    assert metrics_at(tmp_path, "runs/other", END) is None


def test_disk_is_measured_in_the_clone(tmp_path: Path) -> None:
    (tmp_path / ".dvc/cache/files").mkdir(parents=True)
    (tmp_path / ".dvc/cache/files/0").write_bytes(b"x" * 3_000_000)
    assert disk_of(Workspace.at(tmp_path))["DVC's cache"] == pytest.approx(3, abs=0.1)
