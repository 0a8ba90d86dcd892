"""The benchmark of a run's overhead: its phases make up the wall clock, and it sees every stage of a command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.overhead import Timeline, time_command

WORK = """
import json, pathlib, time
history = pathlib.Path(".rootstock/costs/history.jsonl")
for stage in ("ingest", "train@progressive"):
    time.sleep(0.2)
    with history.open("a") as file:
        file.write(json.dumps({"stage": stage, "seconds": 0.1}) + "\\n")
"""


def test_phases_make_up_the_wall_clock_and_stages_side_by_side_count_once() -> None:
    stages = [("train", 5.0, 8.0), ("ingest", 1.0, 2.0), ("train", 4.0, 6.0), ("export", 9.0, 11.0)]
    phases = Timeline(wall=12.0, environment=0.5, stages=stages).phases()
    assert (phases["start"], phases["between"], phases["end"]) == (0.5, 3.0, 1.0)
    assert (phases["train"], phases["export"], phases["prepare"]) == (5.0, 2.0, 0.0)


def test_training_and_the_network_are_told_apart_from_the_rest() -> None:
    costs = [{"stage": "features", "extracted": 30, "images_per_s": 10.0}, {"stage": "train@progressive"}]
    assert Timeline(12.0, stages=[("train", 5.0, 8.0)], costs=costs).besides_training_and_network() == 6.0


def test_stages_of_a_command_are_seen_and_those_of_earlier_commands_are_not(tmp_path: Path) -> None:
    (tmp_path / ".rootstock/costs").mkdir(parents=True)
    (tmp_path / ".rootstock/costs/history.jsonl").write_text(json.dumps({"stage": "export", "seconds": 9}) + "\n")
    timeline = time_command([sys.executable, "-c", WORK], tmp_path)
    assert [stage for stage, _, _ in timeline.stages] == ["ingest", "train"]
    phases = timeline.phases()
    assert phases["ingest"] + phases["train"] == pytest.approx(0.2)
    parts = ("start", "ingest", "train", "between", "end")
    assert sum(phases[part] for part in parts) == pytest.approx(timeline.wall)
