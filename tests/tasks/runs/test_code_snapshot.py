"""The code of a commit: as committed, made once, found on a remote; old snapshots are removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import RunError, TransientError
from tasks.runs.code_snapshot import unpack
from tasks.workspace import Workspace
from tests.tasks.runs.repository import ADD, change, git, make_repository


def test_unpack_gives_the_code_as_committed(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "clone")
    commit = git(root, "rev-parse", "HEAD")
    (root / "add.py").write_text("half-finished")
    folder = unpack(root, commit)
    assert (folder / "add.py").read_text() == ADD
    assert not (folder / ".git").exists()
    assert git(folder, "rev-parse", "--show-toplevel") == str(root)


def test_unpack_in_a_git_hook_of_another_repository_gives_the_code_of_the_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, other = make_repository(tmp_path / "clone"), make_repository(tmp_path / "other")
    commit = change(root, "add.py", "pass\n")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert (unpack(root, commit) / "add.py").read_text() == "pass\n"


def test_unpack_makes_a_folder_once(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "clone")
    folder = unpack(root, git(root, "rev-parse", "HEAD"))
    (folder / "in use").touch()
    assert (unpack(root, git(root, "rev-parse", "HEAD")) / "in use").exists()
    assert [path.name for path in (Workspace.at(root).code).iterdir()] == [folder.name]


def test_unpack_fetches_a_commit_that_was_pushed_since(tmp_path: Path) -> None:
    origin = make_repository(tmp_path / "origin")
    git(tmp_path, "clone", "-q", str(origin), "clone")
    commit = change(origin, "new.py", "1\n")
    assert (unpack(tmp_path / "clone", commit) / "new.py").read_text() == "1\n"


def test_unpack_refuses_a_commit_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="git push"):
        unpack(make_repository(tmp_path / "clone"), "1" * 40)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:9/r.git", "Failed to connect|Could not connect|Connection refused"),
        ("http://nowhere.invalid/r.git", "Could not resolve host"),
    ],
)
def test_unpack_says_that_a_remote_does_not_answer(tmp_path: Path, address: str, said: str) -> None:
    root = make_repository(tmp_path / "clone")
    git(root, "remote", "add", "origin", address)
    with pytest.raises(TransientError, match=said):
        unpack(root, "1" * 40)


def test_unpack_takes_a_remote_that_does_not_exist_for_no_outage(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "clone")
    git(root, "remote", "add", "origin", str(tmp_path / "nowhere"))
    with pytest.raises(RunError, match="nowhere"):
        unpack(root, "1" * 40)


def test_unpack_keeps_the_ten_that_were_used_last(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "clone")
    folders = [unpack(root, change(root, "number", str(number))) for number in range(12)]
    assert [folder.exists() for folder in folders] == [False] * 2 + [True] * 10
