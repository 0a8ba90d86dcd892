"""The costs of stages: a file for each stage's last run, a history of all runs, the table at the end of a run.

Costs differ from run to run, so DVC doesn't track them. `.rootstock/costs/<stage>.json` holds the numbers of the
stage's summary and the measurements of `tasks.runs.resource_usage`. `history.jsonl` holds the same for every run, one
line each, the oldest first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from tasks.files import read_json, write_bytes, write_json
from tasks.markdown_tables import duration, markdown_table, size
from tasks.workspace import Workspace

_HISTORY = "history.jsonl"
_COMPUTED = ("packed", "decoded", "extracted")
"""Names of the field with the number of computed images in a stage's summary; `reused` is the number of others."""
_RECENT = 5
_KEPT_ENTRIES = 2000
_ONLY_IF_MEASURED = {"GPU": "gpu_seconds", "energy": "energy_j"}

Costs = dict[str, Any]


def keep_costs(workspace: Workspace, stage: str, costs: Mapping[str, Any]) -> None:
    """Write a stage's costs into its own file and into the history."""
    write_json(workspace.costs / f"{stage}.json", costs)
    line = {"stage": stage, "finished_at": datetime.now(UTC).isoformat(timespec="seconds"), **costs}
    append_history(workspace, [line])


def append_history(workspace: Workspace, entries: Sequence[Mapping[str, Any]]) -> None:
    """Add to the history of the workspace, and to that of the clone that it belongs to."""
    lines = "".join(f"{json.dumps(entry)}\n" for entry in entries)
    for folder in {workspace.costs, workspace.shared_costs}:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _HISTORY).open("a", encoding="utf-8") as file:
            file.write(lines)  # one write, so that lines of two runs don't mix


def read_costs(workspace: Workspace, stage: str) -> Costs:
    """The costs of the stage's last run in this workspace; empty if it never ran here."""
    path = workspace.costs / f"{stage}.json"
    costs: Costs = read_json(path) if path.exists() else {}
    return costs


def read_history(workspace: Workspace) -> list[Costs]:
    """The costs of every stage that ran in this workspace, the oldest first."""
    return _read(workspace.costs / _HISTORY)


def read_experience(workspace: Workspace) -> list[Costs]:
    """The costs of every stage that ran in the clone, deployed runs included, the oldest first."""
    return _read(workspace.shared_costs / _HISTORY)


def shorten_history(workspace: Workspace) -> None:
    """Keep the last entries of a clone's history only. No run may be active."""
    path = workspace.shared_costs / _HISTORY
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if len(lines) > _KEPT_ENTRIES:
        write_bytes(path, b"".join(lines[-_KEPT_ENTRIES // 2 :]))


def _read(path: Path) -> list[Costs]:
    """The entries of a history file, without lines that a kill has cut."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "stage" in entry and "seconds" in entry:
            entries.append(entry)
    return entries


def computed(costs: Mapping[str, Any]) -> int | None:
    """How many images a run of a stage computed; None for a stage that doesn't work image by image."""
    return next((costs[name] for name in _COMPUTED if name in costs), None)


def expected_seconds(history: Sequence[Costs], stage: str, new: int | None) -> float | None:
    """How long a stage will take, estimated from its last runs; None if they don't suffice.

    Args:
        history: the result of `read_experience`.
        stage: its name in dvc.yaml.
        new: images that the stage has to compute; None if it doesn't work image by image.
    """
    recent = [entry for entry in history if entry["stage"] == stage]
    if new is None:
        runs = [entry["seconds"] for entry in recent if computed(entry) is None]
        return float(median(runs[-_RECENT:])) if runs else None
    idle = [entry["seconds"] for entry in recent if computed(entry) == 0][-_RECENT:]
    busy = [entry for entry in recent if computed(entry)][-_RECENT:]
    if not busy:
        return float(median(idle)) if idle and not new else None
    # If every run computed images, the rate includes the fixed part. It is exact for the same number of images only.
    fixed = median(idle) if idle else 0.0
    seconds = sum(max(entry["seconds"] - fixed, 0.0) for entry in busy)
    return float(fixed + new * seconds / sum(computed(entry) or 0 for entry in busy))


def scale_trainings(history: Sequence[Costs], trainings: int) -> list[Costs]:
    """The history as if every training had been made with so many folds (`compare.folds`; 1: without).

    n folds take as long as n trainings, see `Settings.as_many_trainings`.
    """
    return [
        {**entry, "seconds": entry["seconds"] * trainings / (entry.get("folds") or 1)}
        if entry["stage"].startswith("train@")
        else entry
        for entry in history
    ]


def costs_table(entries: Sequence[Costs]) -> str:
    """The costs of one run as a table in Markdown, with sums. Quantities that no stage measured have no column."""
    if not entries:
        return "No stage had anything to compute."
    rows = [_row(entry["stage"], entry) for entry in entries]
    if len(entries) > 1:
        rows.append(_row("all", _sum(entries)))
    absent = [head for head, name in _ONLY_IF_MEASURED.items() if all(entry.get(name) is None for entry in entries)]
    heads = [head for head in rows[0] if head not in absent]
    table = markdown_table(heads, [[row[head] for head in heads] for row in rows], right=heads[1:])
    return f"{table}\n\n{_note(entries)}"


def _row(name: str, costs: Mapping[str, Any]) -> dict[str, str]:
    done = computed(costs)
    energy = costs.get("energy_j")
    gpu = costs.get("gpu_seconds")
    return {
        "stage": name,
        "time": duration(costs["seconds"]),
        "CPU": _hours(costs.get("cpu_seconds")),
        "GPU": "-" if gpu is None else _hours(gpu),
        "computed": "-" if done is None else f"{done:,}",
        "reused": f"{costs['reused']:,}" if "reused" in costs else "-",
        "peak memory": size(costs.get("peak_memory_mb")),
        "energy": "not\u00a0measured" if energy is None else f"{energy / 3600:.2f}\u00a0Wh",
    }


def _sum(entries: Sequence[Costs]) -> Costs:
    """Sums of the quantities that all stages measured, and of GPU time: a stage without it used no GPU."""
    total: Costs = {name: sum(entry[name] for entry in entries) for name in ("seconds", "cpu_seconds")}
    total["peak_memory_mb"] = max(entry["peak_memory_mb"] for entry in entries)
    gpu = [entry["gpu_seconds"] for entry in entries if entry.get("gpu_seconds") is not None]
    total["gpu_seconds"] = sum(gpu) if gpu else None
    energy = [entry.get("energy_j") for entry in entries]
    total["energy_j"] = None if None in energy else sum(filter(None, energy))
    return total


def _note(entries: Sequence[Costs]) -> str:
    parts = {part for entry in entries for part in entry.get("energy_of", [])}
    memory = "Peak memory is that of a stage's largest process."
    if not parts:
        return f"{memory} Energy is not measured: neither the processors nor a GPU of this machine report it."
    return f"{memory} Energy is that of the machine's {' and '.join(sorted(parts))}, other programs included."


def _hours(seconds: float | None) -> str:
    return "unknown" if seconds is None else duration(seconds) if seconds < 360 else f"{seconds / 3600:.2f}\u00a0h"
