"""One stage of a stand-in pipeline: fast, with real files. A file `behave/<stage>` makes it fail in a chosen way.

The file is no dependency of the stage, so asking for trouble changes nothing for DVC.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from tasks.progress import Progress
from tasks.runs.costs import keep_costs
from tasks.workspace import Workspace

HOME = Path(os.environ.get("STAND_IN", "."))
"""Where what the stages did is written down, and where they are told to misbehave: wherever they work."""
SIZES = {"ingest": 50_000, "prepare": 10_000, "features": 5_000, "for": 4_000}
"""How often a stage writes its name: so it can be counted whose bytes travel."""
TROUBLE = {
    "user error": ("SourceError: {stage} has no images.\n  Give it some.\n", 2),
    "busy once": ("TransientError: {stage}: the store doesn't answer.\n", 75),
}
LEAF_SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
METRICS: dict[str, Any] = {
    "champion": "feature_extraction",
    "strategies": {
        "feature_extraction": {
            "validation": {"accuracy": 0.5, "accuracy_ci95": [0.4, 0.6], "n": 100},
            "test": {"accuracy": 0.875, "accuracy_ci95": [0.8, 0.9], "n": 200},
            "train_seconds": 1.5,
            "recipe": "modern",
        }
    },
}


def main(stage: str, output: Path, inputs: list[Path]) -> int:
    with (HOME / "ran.txt").open("a") as file:
        file.write(f"{stage}\n")
    order = HOME / "behave" / stage
    behaviour = order.read_text() if order.exists() else ""
    if behaviour == "wait":
        behaviour = wait(order)
    if code := trouble(stage, behaviour, order):
        return code
    checkpoint = Path(".rootstock/checkpoints") / (stage.partition("@")[2] or stage) / "position"  # as the real ones
    if checkpoint.exists():
        print(f"{stage}: resumes after epoch {checkpoint.read_text()}")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_text("1")
    if behaviour == "hang":
        hang(stage)
    if output.exists():  # only a stage whose output persists sees it
        print(f"{stage}: has its output of the last time")
    with Progress(stage, 3, "images") as progress:
        progress.advance(3, {"loss": 0.25})
    content = stage * SIZES.get(stage, 1) + "".join(map(read, inputs))
    if stage == "features":
        write(output / "block5_pool/0", content)
        for strategy in yaml.safe_load(Path("params.yaml").read_text())["strategies"]:
            write(output / "for" / strategy / "0", strategy * SIZES["for"])
    else:
        write(output, content)
    checkpoint.unlink()
    keep_costs(Workspace.at(Path()), stage, {"seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_mb": 1.0})
    if stage == "evaluate":
        write(Path("reports/metrics.json"), json.dumps(worse(METRICS) if behaviour == "worse" else METRICS))
    return 0


def trouble(stage: str, behaviour: str, order: Path) -> int:
    """The exit code of a stage that fails in words, else 0."""
    if behaviour.endswith("once"):
        order.unlink()
    if behaviour == "crash once":
        raise ZeroDivisionError("once")
    text, code = TROUBLE.get(behaviour, ("", 0))
    print(text.format(stage=stage), end="", file=sys.stderr)
    return code


def worse(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics with a test accuracy whose interval lies below that of the others."""
    changed = copy.deepcopy(metrics)
    changed["strategies"]["feature_extraction"]["test"] |= {"accuracy": 0.5, "accuracy_ci95": [0.4, 0.6]}
    return changed


def read(path: Path) -> str:
    """A file, or all that is in a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return "".join(file.read_text() for file in files if file.is_file())


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def wait(order: Path) -> str:
    """Until there is another order, which is given; a sign for the test that it has begun."""
    order.with_name(f"{order.name}.waits").touch()
    while (new := order.read_text()) == "wait":
        time.sleep(0.05)
    return new


def hang(stage: str) -> None:
    """Sleep, with a child in the group and one outside it, both deaf to SIGTERM; write all process ids down."""
    children = [
        subprocess.Popen([sys.executable, "-c", LEAF_SLEEPER], start_new_session=alone) for alone in (False, True)
    ]
    processes = [os.getpid(), os.getppid(), *(child.pid for child in children)]
    temporary = HOME / "processes.tmp"
    temporary.write_text(" ".join(map(str, processes)))
    temporary.replace(HOME / "processes.txt")
    time.sleep(600)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]]))
