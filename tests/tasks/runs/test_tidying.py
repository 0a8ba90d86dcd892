"""Tidying: what a kept version needs stays, all else goes."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest

from tasks.errors import RunError
from tasks.files import write_bytes
from tasks.runs.tidying import (
    UNUSED_DAYS,
    describe_freed,
)
from tasks.workspace import Workspace
from tests.tasks.runs.repository import change, deployed, dvc, git, make_repository, working
from tests.tasks.runs.tidied import are_kept, digest_of, file_in_cache, folder_in_cache, lock_of, night, tidied


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "clone")


def test_last_runs_of_each_deployment_keep_their_data(root: Path) -> None:
    nightly = [night(root, f"night {number}") for number in range(4)]
    weekly = [night(root, f"week {number}", "weekly") for number in range(3)]
    done = tidied(root)
    assert [are_kept(files) for files in nightly] == [False, False, True, True]
    assert [are_kept(files) for files in weekly] == [False, True, True]
    assert done.garbage.objects == 6
    assert "the last 2 runs of runs/nightly" in done.kept


def test_runs_are_counted_by_their_results_not_by_commits_of_the_code(root: Path) -> None:
    nights = [night(root, "first"), night(root, "second")]
    git(root, "merge", "-q", "runs/nightly")
    for number in range(5):
        change(root, "notes.txt", f"{number}")
    nights.append(night(root, "third"))
    tidied(root, 3)
    assert all(map(are_kept, nights))


def test_every_version_with_a_tag_keeps_its_data(root: Path) -> None:
    nights = [night(root, f"night {number}") for number in range(5)]
    git(root, "tag", "champion@v1.0.0", "runs/nightly~4")
    git(root, "tag", "--annotate", "--message=m", "v2", "runs/nightly~3")
    git(root, "tag", "no-commit", "runs/nightly:add.py")
    assert "tagged versions (2)" in tidied(root, 1).kept
    assert [are_kept(files) for files in nights] == [True, True, False, False, True]


@pytest.mark.parametrize("reference", ["refs/heads/mine", "refs/remotes/origin/mine", "refs/stash", "HEAD"])
def test_tips_of_other_references_keep_their_data(root: Path, reference: str) -> None:
    first = night(root, "first")
    if reference == "HEAD":
        git(root, "checkout", "-q", "--detach", "runs/nightly")
    else:
        git(root, "update-ref", reference, "runs/nightly")
    night(root, "second")
    tidied(root, 1)
    assert are_kept(first)


@pytest.mark.parametrize("kind", ["heads", "remotes/origin"])
def test_versions_that_people_committed_keep_their_data(root: Path, kind: str) -> None:
    mine = []
    git(root, "checkout", "-q", "-b", "mine")
    for number in range(3):
        mine.append(folder_in_cache(root, f"mine {number}"))
        change(root, "dvc.lock", lock_of(mine[-1][0]))
    git(root, "checkout", "-q", "main")
    nights = [night(root, f"night {number}") for number in range(3)]
    git(root, "checkout", "-q", "mine")
    git(root, "merge", "-q", "-s", "ours", "runs/nightly")  # the history of runs stays a matter of the runs
    git(root, "checkout", "-q", "main")
    git(root, "update-ref", f"refs/{kind}/work", "mine")
    git(root, "branch", "-q", "-D", "mine")
    tidied(root, 1)
    assert [are_kept(files) for files in mine] == [True, True, True]
    assert [are_kept(files) for files in nights] == [False, False, True]


def test_runs_that_another_clone_pushed_keep_their_data(root: Path) -> None:
    nights = [night(root, f"night {number}") for number in range(3)]
    git(root, "update-ref", "refs/remotes/origin/runs/nightly", "runs/nightly~1")
    git(root, "update-ref", "-d", "refs/heads/runs/nightly")
    tidied(root)
    assert [are_kept(files) for files in nights] == [True, True, False]


def test_working_tree_keeps_its_data_also_of_strategies_that_are_not_chosen_now(root: Path) -> None:
    mine, other = folder_in_cache(root, "mine"), folder_in_cache(root, "no more in dvc.yaml")
    (root / "dvc.lock").write_text(lock_of(mine[0]) + lock_of(other[0], "old").split("stages:\n")[1])
    added = file_in_cache(root, "added")
    (root / "data.dvc").write_text(f"outs:\n- {{hash: md5, md5: {digest_of(added)}, path: data, size: 5}}\n")
    lost = folder_in_cache(root, "lost")
    assert tidied(root).garbage.objects == 2
    assert are_kept([*mine, *other, added])
    assert not are_kept(lost)


def fail(root: Path, made: list[Path], beside: str = "") -> Path:
    """A run that fails after a stage has made an output; gives its folder."""
    with contextlib.suppress(ZeroDivisionError), working(deployed(root, [])) as folder:
        (folder / "dvc.lock").write_text(lock_of(made[0]))
        if beside:
            night(root, beside)  # in nightly.2
        raise ZeroDivisionError
    return folder


def let_git_collect(root: Path) -> None:
    """Let `git gc --auto` find that it is time."""
    git(root, "config", "gc.autoPackLimit", "1")
    for name in ("a", "b"):
        change(root, name, name)
        git(root, "repack", "-q")


def test_unfinished_run_keeps_its_folder_and_its_data(root: Path) -> None:
    made = folder_in_cache(root, "unfinished")
    folder = fail(root, made)
    done = tidied(root)
    assert are_kept([*made, folder / "dvc.lock"])
    assert str(folder) in done.kept


def test_folder_of_a_run_that_no_run_continues_goes(root: Path) -> None:
    made = folder_in_cache(root, "unfinished")
    moved_on, damaged = fail(root, made, beside="the next run"), root / ".rootstock/runs/old"
    damaged.mkdir()
    done = tidied(root)
    assert done.folders == [str(moved_on), str(damaged)]
    assert not are_kept([moved_on, damaged, *made])


def test_persons_worktree_on_a_disk_that_is_away_stays(root: Path, tmp_path: Path) -> None:
    git(root, "worktree", "add", "-q", "--detach", str(tmp_path / "mine"))
    (tmp_path / "mine").rename(tmp_path / "away")
    let_git_collect(root)
    git(root, "config", "gc.worktreePruneExpire", "now")
    tidied(root)
    assert str(tmp_path / "mine") in git(root, "worktree", "list")


def test_dry_look_deletes_nothing_and_says_the_same(root: Path) -> None:
    nights = [night(root, f"night {number}") for number in range(4)]
    foretold = tidied(root, dry=True)
    assert all(map(are_kept, nights))
    assert foretold == tidied(root)
    assert foretold.garbage.objects == 4


def test_what_exports_kept_goes_when_none_has_used_it_for_long(root: Path) -> None:
    kept = Workspace.at(root).kept_exports
    for name, days in {"template-a": 0, "template-b": UNUSED_DAYS - 1, "reference-c": UNUSED_DAYS + 1}.items():
        (kept / name).mkdir(parents=True)
        (kept / name / "graph").write_bytes(bytes(2_000_000))
        os.utime(kept / name, (used := time.time() - 86_400 * days, used))
    done = tidied(root)
    assert {entry.name for entry in kept.iterdir()} == {"template-a", "template-b"}
    assert done.freed_mb == done.unused_mb == 2.0
    assert "2.0\u00a0MB of exports and watches that nothing has used for 14 days" in describe_freed(done)


def test_result_of_a_watch_goes_when_none_has_written_it_for_long(root: Path) -> None:
    watches = Workspace.at(root).watches
    for name, days in {"today": 0, "another-source": UNUSED_DAYS + 1}.items():
        write_bytes(watches / name / "watch.json", b"{}")
        os.utime(watches / name, (used := time.time() - 86_400 * days, used))
    tidied(root)
    assert [entry.name for entry in watches.iterdir()] == ["today"]


@pytest.mark.parametrize("broken", ["dvc.yaml", "dvc.lock"])
def test_nothing_is_deleted_if_it_is_not_known_what_is_needed(root: Path, broken: str) -> None:
    made = folder_in_cache(root, "needed")
    (root / "dvc.lock").write_text(lock_of(made[0]))
    (root / broken).write_text("<<<<<<< mine\nstages: {}\n=======\n")
    with pytest.raises(RunError, match=f"Nothing was deleted.*{broken}"):
        tidied(root)
    assert are_kept(made)


def test_entries_of_the_run_cache_go_with_their_outputs(root: Path) -> None:
    dvc(root, "repro", "fit@a")
    (root / "params.yaml").write_text("factor: 2\n")
    dvc(root, "repro", "fit@a")
    notes = sorted((root / ".dvc/cache/runs").glob("*/*/*"))
    assert len(notes) == 2
    (root / ".rootstock/dvc.lock").unlink(missing_ok=True)
    tidied(root)
    assert len([note for note in notes if note.exists()]) == 1


def test_loose_objects_of_git_are_packed_when_it_is_time(root: Path) -> None:
    let_git_collect(root)
    night(root, "first")
    tidied(root)
    assert git(root, "count-objects").startswith("0 objects")


def test_what_dvc_notes_about_the_folder_of_a_run_goes_with_the_folder(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    with working(deployed(root, [])) as folder, Repo(str(folder)) as repository:
        assert Path(repository.site_cache_dir).is_relative_to(folder)
