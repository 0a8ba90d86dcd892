"""The simulated nights: real runs, each of which commits something, and data that stay within what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import nights
from tests.tasks.runs.repository import git, history


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # DVC's own
def test_each_night_changes_something_and_the_measurement_tells_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nights, "COMPARED", 1)
    measured = nights.measure(tmp_path, 3, is_tidied=True)
    clone = tmp_path / "old/clone"
    assert history(clone)[:3] == [f"Run nightly: night {number}" for number in (4, 3, 2)]
    assert history(tmp_path / "young/clone")[0] == "Run nightly: night 1"
    results = {git(clone, "rev-parse", f"runs/nightly~{number}:dvc.lock") for number in range(3)}
    assert len(results) == 3
    assert measured["disk_mb"][3]["cache"] > 3 * nights.EXPORT_BYTES / 1e6
    assert measured["cpu_seconds"]["median_of_old"] > 0
