"""Disks can damage DVC's cache: bytes that don't match their hash are noticed before they are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.runs.stage_failure import StageFailed
from tasks.runs.supervisor import run_dvc
from tasks.runs.transfers import fetch_inputs
from tasks.runs.worktrees import check_out
from tasks.workspace import Workspace
from tests.tasks.runs.repository import commit, dvc, git, make_parts, make_repository

pytestmark = pytest.mark.slow

Harm = Callable[[bytes], bytes]


def flip(content: bytes) -> bytes:
    return content[:3] + bytes([content[3] ^ 1]) + content[4:]


def cut(content: bytes) -> bytes:
    return content[:-1]


def harm_cache(root: Path, content: bytes, how: Harm) -> Path:
    """Change what the cache holds of a file, keeping its times and its mode; gives the object."""
    files = (path for path in (root / ".dvc/cache/files").rglob("*") if path.is_file())
    found = next(path for path in files if path.read_bytes() == content)
    before = found.stat()
    found.chmod(0o644)
    found.write_bytes(how(content))
    os.utime(found, ns=(before.st_atime_ns, before.st_mtime_ns))
    found.chmod(before.st_mode)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_repository(tmp_path / "clone")
    dvc(root, "repro")
    commit(root, "The project has run")
    return root


@pytest.mark.parametrize("how", [flip, cut])
def test_wrong_bytes_in_the_cache_are_removed_before_a_stage_reads_them(root: Path, tmp_path: Path, how: Harm) -> None:
    right, folder, said = (root / "out/double").read_bytes(), tmp_path / "run", []
    run = Workspace(folder, root)
    check_out(run, git(root, "rev-parse", "HEAD"), print)
    damaged = harm_cache(root, right, how)
    (folder / "add.py").write_text((folder / "add.py").read_text() + "\n")
    assert fetch_inputs("fit@a", run, limit_s=60, on_line=said.append)
    assert said[0].startswith("DVC's cache held damaged files of out/double.")
    assert not damaged.exists()
    with pytest.raises(StageFailed, match="out/double"):  # no remote has it
        run_dvc("fit@a", ["repro", "--single-item", "fit@a"], run, limit_s=60, on_line=print, on_progress=print)
    assert fetch_inputs("double", run, limit_s=60, on_line=print)  # so the next run makes it anew


def test_wrong_bytes_in_the_cache_are_fetched_again_from_the_remote(root: Path, tmp_path: Path) -> None:
    dvc(root, "remote", "add", "-q", "-d", "store", str(tmp_path / "store"))
    dvc(root, "push", "-q")
    commit(root, "A remote")
    right, folder = (root / "out/double").read_bytes(), tmp_path / "run"
    run = Workspace(folder, root)
    check_out(run, git(root, "rev-parse", "HEAD"), print)
    harm_cache(root, right, flip)
    (folder / "add.py").write_text((folder / "add.py").read_text() + "\n")
    assert fetch_inputs("fit@a", run, limit_s=60, on_line=print)
    assert (folder / "out/double").read_bytes() == right


def test_part_of_a_folder_is_not_read_from_wrong_bytes(tmp_path: Path) -> None:
    root, folder, said = make_parts(tmp_path / "clone"), tmp_path / "run", []
    commit(root, "The project has run")
    run = Workspace(folder, root)
    check_out(run, git(root, "rev-parse", "HEAD"), print)
    damaged = harm_cache(root, (root / "out/both/a/file").read_bytes(), flip)
    (folder / "dvc.yaml").write_text((folder / "dvc.yaml").read_text().replace("cp out", "cp -p out"))
    assert fetch_inputs("use@a", run, limit_s=60, on_line=said.append)
    assert not (folder / "out/both/a/file").exists()
    assert said[0].startswith("DVC's cache held damaged files of out/both/a.")
    assert not damaged.exists()
