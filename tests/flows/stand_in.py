"""One stage of a stand-in pipeline: quick, with real files. What goes wrong is asked for by a file `behave/<stage>`.

The file is no dependency of the stage, so asking for trouble changes nothing for DVC.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tasks.progress import Progress

HOME = Path(os.environ.get("STAND_IN", "."))
"""Where what the stages did is written down, and where they are told to misbehave: wherever they work."""
LEAF_SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
METRICS = {
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


def main(stage: str, inputs: list[str]) -> int:
    with (HOME / "ran.txt").open("a") as file:
        file.write(f"{stage}\n")
    order = HOME / "behave" / stage
    behaviour = order.read_text() if order.exists() else ""
    if behaviour == "mend":
        print(f"SourceError: {stage} has no pictures.\n  Give it some.", file=sys.stderr)
        return 2
    if behaviour == "crash once":
        order.unlink()
        raise ZeroDivisionError("once")
    if behaviour == "hang":
        hang(stage)
    with Progress(stage, 3, "pictures") as progress:
        progress.advance(3, {"loss": 0.25})
    output = Path("out") / stage
    output.parent.mkdir(exist_ok=True)
    output.write_text(stage + "".join(Path(name).read_text() for name in inputs))
    if stage == "evaluate":
        Path("reports").mkdir(exist_ok=True)
        Path("reports/metrics.json").write_text(json.dumps(METRICS))
    return 0


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
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
