"""Two machines take turns for many nights, and one of them dies for good in the middle.

    python -m benchmarks.turns [--nights 20]

They are clones that share a bare git repository and a folder as DVC's remote; their stages are small, but keep splits
as `prepare` does. Fails if history isn't one line, an image moves to another split, or more than the unfinished night
is lost. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from tests.conftest import isolate_environment
from tests.tasks.runs.test_taking_turns import take_turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=20)
    nights = parser.parse_args().nights
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder:
        isolate_environment(Path(folder) / "home")
        began = time.monotonic()
        site = take_turns(Path(folder) / "site", nights)
        seconds = time.monotonic() - began
        measured = {
            "nights": nights,
            "in_history": len(site.titles()),
            "images": len(site.splits()),
            "moved_splits": 0,  # take_turns fails otherwise
            "seconds_a_night": round(seconds / nights, 1),
        }
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
