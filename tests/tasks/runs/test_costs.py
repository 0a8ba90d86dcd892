"""Costs are stored, expectations come from them, and the table shows only what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.runs.costs import (
    append_history,
    costs_table,
    expected_seconds,
    keep_costs,
    read_costs,
    read_history,
)
from tasks.workspace import Workspace


def entry(stage: str = "features", seconds: float = 1.0, **more: Any) -> dict[str, Any]:
    measured = {"seconds": seconds, "cpu_seconds": 2 * seconds, "peak_memory_mb": 100}
    return {"stage": stage, **measured, "gpu_seconds": None, "energy_j": None, "energy_of": [], **more}


def test_costs_of_the_last_run_and_of_all_runs_are_kept(tmp_path: Path) -> None:
    for seconds in (1.0, 2.0):
        keep_costs(Workspace.at(tmp_path), "prepare", {"seconds": seconds})
    assert read_costs(Workspace.at(tmp_path), "prepare") == {"seconds": 2.0}
    assert [(one["stage"], one["seconds"]) for one in read_history(Workspace.at(tmp_path))] == [
        ("prepare", 1.0),
        ("prepare", 2.0),
    ]


def test_history_without_a_file_is_empty(tmp_path: Path) -> None:
    assert read_history(Workspace.at(tmp_path)) == []


def test_torn_lines_of_the_history_are_left_out(tmp_path: Path) -> None:
    append_history(Workspace.at(tmp_path), [entry()])
    with (Workspace.at(tmp_path).costs / "history.jsonl").open("a") as file:
        file.write('{"stage": "feat\n[]\n{}\n')
    append_history(Workspace.at(tmp_path), [entry("evaluate")])
    assert [one["stage"] for one in read_history(Workspace.at(tmp_path))] == ["features", "evaluate"]


@pytest.mark.parametrize(
    ("runs", "new", "expected"),
    [
        ([], 10, None),
        ([(100, 10.0)], 50, 5.0),
        ([(100, 12.0), (0, 2.0)], 50, 2.0 + 5.0),
        ([(0, 2.0)], 0, 2.0),
        ([(0, 2.0)], 10, None),
    ],
)
def test_expectation_grows_with_the_images(runs: Any, new: int, expected: float | None) -> None:
    history = [entry(seconds=seconds, extracted=n, reused=0) for n, seconds in runs]
    assert expected_seconds(history, "features", new) == (None if expected is None else pytest.approx(expected))


def test_expectation_of_a_stage_without_images_is_the_median_of_its_last_runs() -> None:
    history = [entry("export", seconds) for seconds in (99, 1, 2, 3, 4, 5)] + [entry("evaluate", 50)]
    assert expected_seconds(history, "export", None) == 3
    assert expected_seconds(history, "train@fine_tuning", None) is None


def test_table_has_a_row_for_each_stage_and_the_sums() -> None:
    table = costs_table(
        [
            entry("prepare", 60.0, decoded=1500, reused=20, energy_j=3600.0, energy_of=["processors"]),
            entry("train@x", 3600.0, gpu_seconds=1800.0, energy_j=7200.0, energy_of=["GPUs", "processors"]),
        ]
    ).replace("\u00a0", " ")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:5]]
    assert cells == [
        ["prepare", "60 s", "2 min", "-", "1,500", "20", "100 MB", "1.00 Wh"],
        ["train@x", "60 min", "2.00 h", "0.50 h", "-", "-", "100 MB", "2.00 Wh"],
        ["all", "61 min", "2.03 h", "0.50 h", "-", "-", "100 MB", "3.00 Wh"],
    ]
    assert "GPUs and processors, other programs included" in table


def test_table_says_what_was_not_measured() -> None:
    table = costs_table([entry(energy_j=1.0, energy_of=["processors"]), entry("export")]).replace("\u00a0", " ")
    assert table.splitlines()[4].split("|")[-2].strip() == "not measured"  # the sum, because a part of it is unknown
    assert "Energy is not measured" in costs_table([entry()])


def test_what_no_stage_measured_has_no_column() -> None:
    assert costs_table([entry()]).splitlines()[0].split()[-3:] == ["peak", "memory", "|"]
    assert "GPU" not in costs_table([entry()]).splitlines()[0]
    assert "GPU" in costs_table([entry(), entry(gpu_seconds=1.0)]).splitlines()[0]


def test_table_without_stages_says_that_nothing_ran() -> None:
    assert costs_table([]) == "No stage had anything to compute."
