"""A simulated history of a nightly run: what the disk holds and how long a night takes, after 10, 100 and 1,000 nights.

    python -m benchmarks.nights [--nights 1000] [--untidied 100]

Each night some small images come and as many go. Git, DVC, the plan, `ingest`, `prepare`, the commit and `make tidy`
are the real ones, in one process without Prefect; what follows `prepare` writes files of random bytes. `--untidied`
nights run without tidying, too. Prints one JSON object: MB by the age of the history, and the seconds of a night in the
old clone against those in a new one. Both have their nights in turn, so that other programs disturb both alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import yaml

from benchmarks.data.making import write_images
from benchmarks.workspaces import make_workspace
from tasks import ingest, plan, prepare
from tasks.files import write_json
from tasks.params import load_settings
from tasks.runs.costs import keep_costs
from tasks.runs.run_context import DeployedRun
from tasks.runs.tidying import tidy_after
from tasks.runs.worktrees import run_folder
from tasks.workspace import Workspace

IMAGES, CHANGED = 24, 4
MODEL_BYTES, EXPORT_BYTES = 40_000, 200_000
COMPARED = 20
"""Nights of either clone whose times are compared, after the old one has become old."""
PARTS = {"cache": ".dvc/cache", "git": ".git", "state": ".rootstock"}
STAGES = {
    "ingest": {"always_changed": True, "params": ["source", "ingest"], "outs": ["data/raw"]},
    "prepare": {
        "deps": ["data/raw"],
        "params": ["prepare"],
        "outs": ["data/prepared", "reports/data.html", "reports/data.json"],
    },
    "train": {"deps": ["data/prepared"], "outs": ["models/trained"]},
    "export": {"deps": ["models/trained"], "outs": ["models/export"]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=1000)
    parser.add_argument("--untidied", type=int, default=100)
    options = parser.parse_args()
    os.environ.update({"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"})
    measured = {}
    for name, nights in (("tidied", options.nights), ("untidied", options.untidied)):
        if nights:
            with (
                tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder,
                contextlib.redirect_stdout(sys.stderr),  # what DVC says
            ):
                measured[name] = measure(Path(folder), nights, name == "tidied")
    print(json.dumps(measured, indent=2))


def measure(temporary: Path, nights: int, is_tidied: bool) -> dict[str, Any]:
    old, young = (make_clone(temporary / name) for name in ("old", "young"))
    disk: dict[int, dict[str, float]] = {}
    for night in range(1, nights + 1):
        take_seconds(old, night, is_tidied)
        if night in (10, 30, nights) or not night % 100:
            disk[night] = disk_mb(old)
            print(night, disk[night], file=sys.stderr)
    pairs = [
        (take_seconds(young, night, is_tidied), take_seconds(old, nights + night, is_tidied))
        for night in range(1, COMPARED + 1)
    ]
    wall, cpu = ([(one[kind], other[kind]) for one, other in pairs] for kind in (0, 1))
    return {"disk_mb": disk, "seconds": compare(wall), "cpu_seconds": compare(cpu)}


def take_seconds(clone: Path, night: int, is_tidied: bool) -> tuple[float, float]:
    """A night's seconds on the clock, and those of the CPU, which don't count other programs."""
    change_images(clone.parent / "images", night)
    start, used = time.perf_counter(), cpu_seconds()
    run(clone, night, is_tidied)
    return time.perf_counter() - start, cpu_seconds() - used


def cpu_seconds() -> float:
    """Of this process and of its children that have ended. Unlike the wall clock, it doesn't count other programs."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def compare(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Nights of the young clone and of the old one, in turn: medians, and the median and mean of their ratios."""
    young, old = zip(*pairs, strict=True)
    return {
        "median_of_young": round(median(young), 3),
        "median_of_old": round(median(old), 3),
        "ratio": round(median(other / one for one, other in pairs), 2),
        "ratio_of_means": round(mean(old) / mean(young), 2),
    }


def make_clone(temporary: Path) -> Path:
    """A clone with the project's code and the stages above."""
    clone = make_workspace(temporary / "clone")
    stages: dict[str, Any] = {}
    for name, stage in STAGES.items():
        stages[name] = {**stage, "cmd": "true", "outs": [{out: {"persist": True}} for out in stage["outs"]]}
    for name in ("train", "export"):  # DVC deletes their outputs before it runs them
        path = STAGES[name]["outs"][0]
        stages[name] |= {"cmd": f"mkdir -p models && cp -r .rootstock/made/{path} {path}", "outs": [path]}
    (clone / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    params = clone / "params.yaml"
    params.write_text(params.read_text().replace("uri: digits", f"uri: {temporary / 'images'}"))
    write_images(temporary / "images", range(IMAGES))
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message=The stages of the measurement")
    return clone


def change_images(folder: Path, night: int) -> None:
    """Some new images; the oldest ones go."""
    write_images(folder, range(IMAGES + (night - 1) * CHANGED, IMAGES + night * CHANGED))
    for number in range((night - 1) * CHANGED, night * CHANGED):
        next(folder.glob(f"*/{number:06d}.jpg")).unlink()


def run(clone: Path, night: int, is_tidied: bool) -> None:
    """One deployed run, as the flow makes it."""
    deployed = DeployedRun(clone, "nightly", git(clone, "rev-parse", "HEAD"), f"night {night}", lambda _: None)
    with run_folder(deployed) as context, contextlib.chdir(context.workspace.folder):
        work(context.workspace, night)
        kept_runs = load_settings(context.workspace.folder).run.kept_runs
    if is_tidied:
        tidy_after(Workspace.at(clone), kept_runs, print)


def work(workspace: Workspace, night: int) -> None:
    settings = load_settings(workspace.folder)
    plan.run(settings, workspace)
    if workspace.lock.exists():
        with repository(workspace) as dvc:
            dvc.checkout(force=True, allow_missing=True)
    bytes_of = np.random.default_rng(night)
    for stage in STAGES:
        start = time.perf_counter()
        if stage in ("ingest", "prepare"):
            {"ingest": ingest, "prepare": prepare}[stage].run(settings, workspace)
        else:
            stand_in(workspace, stage, bytes_of)
        keep_costs(workspace, stage, {"seconds": time.perf_counter() - start, "cpu_seconds": 0, "peak_memory_mb": 0})
    with repository(workspace) as dvc:
        dvc.reproduce()


def stand_in(workspace: Workspace, stage: str, bytes_of: np.random.Generator) -> None:
    made = workspace.folder / ".rootstock/made/models"
    if stage == "train":
        write(made / "trained/feature_extraction/weights", bytes_of.bytes(MODEL_BYTES))
        write_json(workspace.metrics, {"accuracy": bytes_of.random()})
    else:
        for name in ("model.onnx", "model.tflite", "saved_model/variables"):
            write(made / "export" / name, bytes_of.bytes(EXPORT_BYTES // 3))


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a link into the cache
    path.write_bytes(content)


@contextlib.contextmanager
def repository(workspace: Workspace) -> Iterator[Any]:
    from dvc.repo import Repo

    with Repo(str(workspace.folder)) as opened:
        yield opened


def disk_mb(clone: Path) -> dict[str, float]:
    """Disk space by parts of the clone, and in all, in MB."""
    parts = {name: used_mb(clone / path) for name, path in PARTS.items()}
    return {"all": used_mb(clone), **parts}


def used_mb(folder: Path) -> float:
    result = subprocess.run(["du", "-s", "-k", folder], check=True, capture_output=True, text=True)
    return round(int(result.stdout.split()[0]) / 1e3, 2)


def git(folder: Path, *arguments: str) -> str:
    author = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    command = ["git", *author, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
