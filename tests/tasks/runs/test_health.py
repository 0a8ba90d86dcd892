"""The health of a clone: each fault is found and repaired by real means, and a healthy clone has none."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tasks.errors import RunError
from tasks.files import atomic_file
from tasks.runs import health
from tasks.runs.dvc_state import health as dvc_health
from tasks.runs.findings import Finding, examine, repaired
from tasks.runs.git import is_sound
from tasks.runs.worktrees import run_folder
from tasks.workspace import Workspace
from tests.tasks.runs.repository import LOCK, change, deployed, dvc, git, make_repository, work

Examine = Callable[[Workspace], Iterable[Finding]]
LOCAL: list[Examine] = [
    health.check_locks,
    health.check_temporaries,
    health.check_folders,
    health.check_branches,
    health.check_hooks,
    health.check_disk,
    dvc_health.check_torn_files,
    lambda workspace: dvc_health.check_cache(workspace, 1),
    dvc_health.check_remote,
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_repository(tmp_path_factory.mktemp("health") / "clone")
    dvc(root, "repro", "-q")
    work(deployed(root), LOCK)
    change(root, "params.yaml", "factor: 2\n")
    work(deployed(root, title="second"), f"{LOCK}  ")
    return root


@pytest.fixture
def clone(made: Path, tmp_path: Path) -> Workspace:
    return Workspace.at(Path(shutil.copytree(made, tmp_path / "clone", symlinks=True)))


def wrong(check: Examine, workspace: Workspace) -> list[Finding]:
    return [finding for finding in examine(lambda: check(workspace)) if finding.remedy]


def repair(check: Examine, workspace: Workspace) -> str:
    """Mend the only thing that is wrong; then nothing is."""
    [finding] = wrong(check, workspace)
    done = repaired(finding)
    assert not done.remedy, done.found
    assert wrong(check, workspace) == []
    return done.found


def old(path: Path) -> Path:
    path.touch()
    os.utime(path, (time.time() - 3600, time.time() - 3600))
    return path


def test_healthy_clone_has_nothing_wrong(clone: Workspace) -> None:
    assert [finding.found for check in LOCAL for finding in wrong(check, clone)] == []


@pytest.mark.parametrize("name", ["index.lock", "HEAD.lock", "refs/heads/runs/nightly.lock"])
def test_old_lock_of_a_killed_git_is_removed(clone: Workspace, name: str) -> None:
    lock = old(clone.folder / ".git" / name)
    assert name in repair(health.check_locks, clone)
    assert not lock.exists()


def test_lock_is_left_to_a_git_that_works_and_to_one_that_just_began(clone: Workspace) -> None:
    lock = clone.folder / ".git/index.lock"
    lock.touch()
    assert wrong(health.check_locks, clone) == []
    old(lock)
    with subprocess.Popen(["git", "cat-file", "--batch"], cwd=clone.folder, stdin=subprocess.PIPE) as busy:
        assert wrong(health.check_locks, clone) == []
        busy.communicate()
    assert len(wrong(health.check_locks, clone)) == 1


def test_files_of_killed_writers_are_removed_and_those_of_living_ones_stay(clone: Workspace) -> None:
    leftover = clone.folder / "data/raw/.one.tar.12.partial"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    with atomic_file(leftover.parent / "other.tar"):
        assert repair(health.check_temporaries, clone).endswith("Repaired: 1 removed.")
    assert [path.name for path in leftover.parent.iterdir()] == ["other.tar"]


def test_unfinished_run_is_told_and_the_record_of_a_lost_folder_is_removed(clone: Workspace, tmp_path: Path) -> None:
    with pytest.raises(RunError), run_folder(deployed(clone.folder, title="third")):
        raise RunError("no images")
    told = [finding.found for finding in health.check_folders(clone)]
    assert any("nightly holds the run third (no images)" in one for one in told)
    shutil.rmtree(clone.runs / "nightly")
    git(clone.folder, "worktree", "add", "-q", "--detach", str(tmp_path / "mine"))
    shutil.rmtree(tmp_path / "mine")  # a disk that isn't mounted now
    repair(health.check_folders, clone)
    known = [Path(line.split()[0]).name for line in git(clone.folder, "worktree", "list").splitlines()]
    assert known == ["clone", "mine"]


def test_branch_with_an_empty_tip_is_set_back(clone: Workspace) -> None:
    tip, before = git(clone.folder, "log", "--first-parent", "--format=%H", "-2", "runs/nightly").split()
    file = clone.folder / ".git/objects" / tip[:2] / tip[2:]
    file.chmod(0o644)
    file.write_bytes(b"")
    assert before[:10] in repair(health.check_branches, clone)
    assert is_sound(clone.folder, "runs/nightly")


def test_damage_behind_the_tip_is_told(clone: Workspace) -> None:
    old_blob = git(clone.folder, "rev-parse", "runs/nightly~1:dvc.lock")
    (clone.folder / ".git/objects" / old_blob[:2] / old_blob[2:]).unlink()
    [finding] = wrong(health.check_branches, clone)
    assert "Earlier commits of the branches of runs are damaged" in finding.found


def test_hooks_of_a_person_are_told_and_not_wrong(clone: Workspace) -> None:
    dvc(clone.folder, "install")
    [finding] = health.check_hooks(clone)
    assert "run the hooks post-checkout, pre-commit, pre-push; runs don't" in finding.found
    assert not finding.remedy


def test_full_disk_is_wrong(clone: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LEAST_FREE_BYTES", 1 << 62)
    assert "GB are free on the disk of" in wrong(health.check_disk, clone)[0].found


@pytest.mark.parametrize("name", ["dvc.lock", ".dvc/tmp/rwlock"])
def test_torn_file_of_dvc_is_repaired(clone: Workspace, name: str) -> None:
    assert wrong(dvc_health.check_torn_files, clone) == []  # a whole version is kept now
    path = clone.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.read_bytes() if path.exists() else b"{}"
    path.write_bytes(whole[:1])
    repair(dvc_health.check_torn_files, clone)
    assert name != "dvc.lock" or path.read_bytes() == whole


def test_damaged_object_in_the_cache_is_found_removed_and_computed_again(clone: Workspace) -> None:
    content = (clone.folder / "out/join").read_text()
    for path in (clone.folder / ".dvc/cache/files/md5").rglob("*"):
        if path.is_file() and path.read_text() == content:
            path.chmod(0o644)
            path.write_bytes(content[::-1].encode())
            harmed = path
    assert str(harmed) in repair(lambda workspace: dvc_health.check_cache(workspace, 7), clone)
    (clone.folder / "out/join").unlink()
    (clone.folder / "params.yaml").write_text("factor: 1\n")
    dvc(clone.folder, "repro", "-q")
    assert harmed.read_text() == content


def test_remote_is_written_read_and_left_as_it_was(clone: Workspace, tmp_path: Path) -> None:
    dvc(clone.folder, "remote", "add", "-q", "-d", "store", str(tmp_path / "store"))
    assert [finding.found for finding in dvc_health.check_remote(clone)] == [
        "DVC's remote store can be written, read and cleaned"
    ]
    assert list((tmp_path / "store").rglob("*")) == []


def test_remote_that_can_not_be_written_is_wrong(clone: Workspace, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    dvc(clone.folder, "remote", "add", "-q", "-d", "store", str(tmp_path / "store"))
    assert "DVC's remote store can't be used" in wrong(dvc_health.check_remote, clone)[0].found


def test_check_that_fails_or_hangs_is_a_finding() -> None:
    def fail() -> Iterable[Finding]:
        yield Finding("one thing is fine")
        raise ZeroDivisionError("by zero")

    one, two = examine(fail)
    assert (one.remedy, two.found) == ("", "this could not be checked (ZeroDivisionError: by zero)")
    released = threading.Event()
    [hung] = examine(lambda: [Finding("late")] if released.wait() else [], limit_s=0.05)
    released.set()
    assert "no answer within 0.05 s" in hung.found


def test_what_can_not_be_mended_stays_wrong() -> None:
    def refuse() -> str:
        raise PermissionError("not yours")

    assert repaired(Finding("It is broken.", "x", refuse)).remedy
    assert repaired(Finding("It is broken.", "x")).remedy == "x"
