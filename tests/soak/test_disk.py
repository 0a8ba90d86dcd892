"""The soak's small disk: filling it never fails, whatever other programs write meanwhile."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.soak import disk
from tests.soak.disk import SmallDisk


def test_filling_a_disk_on_which_others_write_meanwhile_fails_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = SmallDisk(tmp_path)
    free, taken = iter([5_000_000, 1_000_000, 10]), []

    def allocate(_file: int, start: int, size: int) -> None:
        taken.append((start, size))
        if len(taken) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=next(free)))
    monkeypatch.setattr(disk.os, "posix_fallocate", allocate)
    small.fill()
    assert taken == [(0, 4_900_000), (0, 900_000)]
    small.fill()  # it is full already
    assert len(taken) == 2
