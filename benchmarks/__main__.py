"""Run the benchmarks: `make bench`, or `python -m benchmarks --data FOLDER` (train/<class> and val/<class>)."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks import extraction
from benchmarks.workspaces import write_digits


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--data", type=Path, help="default: 200 of the built-in digits")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the tutorial's script")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder:
        temporary = Path(folder)
        data = options.data or write_digits(temporary / "digits")
        measured = {"extraction": extraction.measure(data.resolve(), temporary, options.epochs)}
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
