"""The branch of a deployment: stale locks and power failures don't end its history; any name makes a branch."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from tasks.errors import RunError
from tasks.runs.run_context import safe_name
from tasks.runs.worktrees import run_folder
from tests.tasks.runs.repository import LOCK, change, deployed, git, history, make_repository, work, working


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "clone")


def stale_lock(root: Path, age_s: float) -> Path:
    lock = root / ".git/refs/heads/runs/nightly.lock"
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    os.utime(lock, (time.time() - age_s,) * 2)
    return lock


def test_stale_lock_of_the_branch_is_removed(root: Path) -> None:
    lock = stale_lock(root, 3600)
    said: list[str] = []
    with working(deployed(root, said)) as folder:
        (folder / "dvc.lock").write_text(LOCK)
    assert not lock.exists()
    assert len(history(root)) == 2
    assert any(str(lock) in line for line in said)


def test_fresh_lock_of_the_branch_is_respected_and_reported_in_gits_words(root: Path) -> None:
    lock = stale_lock(root, 0)
    with pytest.raises(RunError, match=r"nightly\.lock': File exists"):
        work(deployed(root), LOCK)
    assert lock.exists()


def damage(root: Path, commit: str) -> None:
    path = root / ".git/objects" / commit[:2] / commit[2:]
    path.chmod(0o600)
    path.write_bytes(b"")


@pytest.mark.parametrize("what", ["commit", "tree", "dvc.lock"])
def test_tip_that_a_power_failure_damaged_is_given_up_for_the_run_before(root: Path, what: str) -> None:
    work(deployed(root), LOCK)
    sound = git(root, "rev-parse", "runs/nightly")
    work(deployed(root, title="second"), LOCK.replace("count", "double"), "factor: 3\n")
    names = {"commit": "runs/nightly", "tree": "runs/nightly^{tree}", "dvc.lock": "runs/nightly:dvc.lock"}
    damage(root, git(root, "rev-parse", names[what]))
    said: list[str] = []
    with working(deployed(root, said, "third")) as folder:
        assert (folder / "dvc.lock").read_text() == LOCK
        (folder / "dvc.lock").write_text(LOCK.replace("count", "join"))
    assert any(f"set back to its last sound commit, {sound[:10]}" in line for line in said)
    assert history(root) == ["Run nightly: third", "Run nightly: first", "The project"]


def test_tip_is_sound_whatever_its_files_say(root: Path) -> None:
    work(deployed(root), LOCK)
    git(root, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},submodule")
    change(root, "notes.txt", "the module is missing\n")
    work(deployed(root, title="second"), LOCK.replace("count", "double"))
    work(deployed(root, title="third"), LOCK.replace("count", "join"))
    assert history(root)[:3] == ["Run nightly: third", "Run nightly: second", "Run nightly: first"]


def test_branch_that_a_power_failure_emptied_is_found_again(root: Path) -> None:
    work(deployed(root), LOCK)
    (root / ".git/refs/heads/runs/nightly").write_bytes(b"")
    with working(deployed(root, title="second")) as folder:
        assert (folder / "dvc.lock").read_text() == LOCK
    assert history(root) == ["Run nightly: first", "The project"]


def kill_git(folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, times: int) -> None:
    """Let the first calls of a command of git be killed, as by a kernel that has no memory left."""
    programs = folder / "programs"
    programs.mkdir()
    script = f"""#!/bin/sh
case "$*" in *"{command}"*)
    if [ "$(ls {programs} | wc -l)" -le {times} ]; then mktemp {programs}/killed.XXXXXX > /dev/null; kill -9 $$; fi;;
esac
exec {shutil.which("git")} "$@"
"""
    (programs / "git").write_text(script)
    (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


@pytest.mark.parametrize("command", ["ls-tree", "cat-file --batch --buffer", "rev-parse refs/heads"])
def test_git_that_is_killed_while_it_reads_the_tip_is_asked_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    work(deployed(root), LOCK)
    kill_git(tmp_path, monkeypatch, command, 1)
    said: list[str] = []
    work(deployed(root, said, "second"), LOCK.replace("count", "double"))
    assert not any("damaged" in line for line in said)
    assert history(root)[:2] == ["Run nightly: second", "Run nightly: first"]


def test_git_that_is_always_killed_ends_the_run_and_moves_no_branch(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(deployed(root), LOCK)
    work(deployed(root, title="second"), LOCK.replace("count", "double"))
    kill_git(tmp_path, monkeypatch, "cat-file", 1000)
    with pytest.raises(RunError, match=r"cat-file.*exit code -9"):
        work(deployed(root, title="third"), LOCK)
    assert history(root)[:2] == ["Run nightly: second", "Run nightly: first"]


def test_only_commit_of_a_branch_that_is_damaged_is_reported_with_what_to_do(root: Path) -> None:
    work(deployed(root), LOCK)
    damage(root, git(root, "rev-parse", "runs/nightly"))
    with (
        pytest.raises(RunError, match=r"begins a new history: rm .*refs/heads/runs/nightly"),
        run_folder(deployed(root)),
    ):
        pass


@pytest.mark.parametrize("name", ["v1..2", "x.lock", "a b", "a_b", "-", "ä", "a//b", "..", "nightly"])
def test_any_name_of_a_deployment_makes_a_branch_of_its_own(root: Path, name: str) -> None:
    branch = f"runs/{safe_name(name)}"
    git(root, "check-ref-format", "--branch", branch)
    assert safe_name(name) == safe_name(name)
    assert safe_name(name) not in {safe_name(other) for other in ("v1.2", "x", "a-b", "ab", "run", "a/b")}


def test_usual_names_stay_as_they_are() -> None:
    assert [safe_name(name) for name in ("nightly", "a_b", "v1.2-x")] == ["nightly", "a_b", "v1.2-x"]
