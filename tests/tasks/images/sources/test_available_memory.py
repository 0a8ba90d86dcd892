"""The memory that is available: of the machine, and of the control groups that this process is in."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tasks.images.sources.memory import available_bytes

MB = 1_000_000


def make_group(folder: Path, limit: str, used: int, inactive: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\n")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "cgroup"
    path.write_text("4:memory:/elsewhere\n0::/pod/me\n")
    return path


def test_smallest_limit_of_all_groups_counts_without_files_that_can_be_dropped(tmp_path: Path, own: Path) -> None:
    make_group(tmp_path / "groups/pod", str(50 * MB), 40 * MB, 5 * MB)
    make_group(tmp_path / "groups/pod/me", "max", 1, 0)
    make_group(tmp_path / "groups/other", str(MB), MB, 0)
    assert available_bytes(tmp_path / "groups", own) == 15 * MB


def test_machine_counts_without_groups(tmp_path: Path, own: Path) -> None:
    for missing in (tmp_path / "nothing", own):
        assert 0 < available_bytes(tmp_path / "groups", missing) <= psutil.virtual_memory().total
