"""`python -m tests.soak --hours 2 [--minutes N] [--seed N] [--pause S] [--report FILE]`: the soak, and its report.

The exit code is 1 if a promise was broken. All files of a soak that broke one are kept.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import PROJECT, isolate_environment
from tests.soak.report import report
from tests.soak.soaking import soak


def main() -> int:
    """Soak. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Nights a minute apart, with faults.")
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--minutes", type=float, default=0.0, help="added to the hours")
    parser.add_argument("--seed", type=int, default=0, help="of the plan; the same seed plans the same faults")
    parser.add_argument("--pause", type=float, default=60.0, help="seconds between two faults, on average")
    parser.add_argument("--report", type=Path, help="write the report to this file")
    given = parser.parse_args()
    length_s = 3600 * given.hours + 60 * given.minutes
    if length_s <= 0:
        parser.error("give --hours or --minutes")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=10"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="rootstock-soak-"))
    (folder / "home").mkdir()
    isolate_environment(folder / "home")
    print(f"All files are in {folder}", flush=True)
    result = soak(folder, given.seed, length_s, given.pause, commit)
    text = report(result)
    (folder / "report.md").write_text(text)
    if given.report:
        given.report.write_text(text)
    print(text)
    if result.broken:
        print(f"The logs are kept in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
