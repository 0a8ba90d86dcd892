"""Live metrics of a training: files that grow by one row a step, in the layout of dvclive, which `dvc plots` shows.

dvclive itself opens DVC and git first, which takes longer than the training of a linear probe.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class LiveMetrics:
    """Writes `plots/metrics/<name>.tsv` (all steps) and `metrics.json` (the last one); removes those of earlier runs.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: Path) -> None:
        self._summary_file, self._tables = folder / "metrics.json", folder / "plots" / "metrics"
        self._step = 0
        self._summary: dict[str, Any] = {}
        shutil.rmtree(self._tables, ignore_errors=True)
        self._tables.mkdir(parents=True)
        self._write_summary()

    def log(self, metrics: Mapping[str, float]) -> None:
        """Add one step; infinity and NaN become text."""
        for name, value in metrics.items():
            new = not (table := self._tables / f"{name}.tsv").exists()
            with table.open("a", encoding="utf-8") as file:
                file.write(f"step\t{name}\n" * new + f"{self._step}\t{value}\n")
            self._summary[name] = value if abs(value) < float("inf") else str(value)
        self._summary["step"] = self._step
        self._write_summary()
        self._step += 1

    def _write_summary(self) -> None:
        self._summary_file.write_text(json.dumps(self._summary, indent=4) + "\n", encoding="utf-8")
