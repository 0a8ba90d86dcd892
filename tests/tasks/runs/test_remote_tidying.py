"""Tidying the remote: only if it is asked for, and if it is known what others need."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.errors import RunError
from tasks.runs.tidying import (
    tidy_remote,
)
from tasks.workspace import Workspace
from tests.tasks.runs.repository import dvc, git, make_repository
from tests.tasks.runs.tidied import digest_of, lock_of, night, tidied


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "clone")


def stored(folder: Path) -> set[str]:
    """The hashes that a cache or a remote in a folder holds."""
    return {digest_of(path) for path in (folder / "files/md5").rglob("*") if path.is_file()}


@pytest.fixture
def shared(root: Path, tmp_path: Path) -> Path:
    """DVC's remote, with all that the clone's cache holds; git has a remote, too."""
    store = tmp_path / "store"
    dvc(root, "remote", "add", "-d", "store", str(store))
    git(root, "init", "-q", "--bare", str(tmp_path / "origin"))
    git(root, "remote", "add", "origin", str(tmp_path / "origin"))
    for number in range(3):
        night(root, f"night {number}")
    shutil.copytree(root / ".dvc/cache/files", store / "files")
    return store


def test_remote_is_tidied_only_if_it_is_asked_for(root: Path, shared: Path) -> None:
    before = stored(shared)
    tidied(root, 1)
    assert stored(shared) == before
    assert tidy_remote(Workspace.at(root), 1, dry=True) == 4
    assert stored(shared) == before
    assert tidy_remote(Workspace.at(root), 1) == 4
    assert stored(shared) == stored(root / ".dvc/cache")


def test_remote_keeps_what_another_clone_has_pushed(root: Path, shared: Path) -> None:
    git(root, "push", "-q", "origin", "runs/nightly:runs/other", "runs/nightly~2:refs/heads/mine")
    git(root, "update-ref", "-d", "refs/remotes/origin/runs/other")
    git(root, "update-ref", "-d", "refs/remotes/origin/mine")
    night(root, "of this clone")
    tidied(root, 1)  # here the listings of the other clone's runs are gone
    assert tidy_remote(Workspace.at(root), 1) == 2
    assert len(stored(shared)) == 4


def test_remote_stays_if_it_is_not_known_what_others_need(root: Path, shared: Path) -> None:
    before = stored(shared)
    workspace = Workspace.at(root)
    git(root, "remote", "set-url", "origin", "/nowhere")
    with pytest.raises(RunError, match="fetch"):
        tidy_remote(workspace, 1)
    git(root, "remote", "remove", "origin")
    with pytest.raises(RunError, match="git has no remote"):
        tidy_remote(workspace, 1)
    git(root, "remote", "add", "origin", str(shared.with_name("origin")))
    (root / "dvc.lock").write_text(lock_of(Path("aa/" + "0" * 30 + ".dir")))
    with pytest.raises(RunError, match=r"aa0+\.dir of a kept version is neither"):
        tidy_remote(workspace, 1)
    assert stored(shared) == before
