"""A deployed run's folder: one commit per run, the user's tree untouched, unfinished work found again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.errors import RunError
from tasks.images.sources import SourcePolicy, discover
from tasks.params import load_settings
from tasks.runs.git import OF_ONE_REPOSITORY
from tasks.runs.run_context import DeployedRun
from tasks.runs.worktrees import claim_folder, run_folder
from tests.conftest import PROJECT, contents
from tests.tasks.runs.repository import LOCK, change, deployed, dvc, git, history, make_repository, work, working


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "clone")


def worktrees(root: Path) -> int:
    return len(git(root, "worktree", "list").splitlines())


def test_run_ends_in_one_commit_and_leaves_nothing_else(root: Path) -> None:
    code = git(root, "rev-parse", "HEAD")
    work(deployed(root), "lock: 1\n", "factor: 7\n")
    assert history(root) == ["Run nightly: first", "The project"]
    assert git(root, "show", "runs/nightly:dvc.lock") == "lock: 1"
    assert git(root, "show", "runs/nightly:params.yaml") == "factor: 7"
    assert git(root, "diff", "--name-only", code, "runs/nightly").split() == ["dvc.lock", "params.yaml"]
    assert (git(root, "status", "--short"), git(root, "rev-parse", "HEAD"), worktrees(root)) == ("", code, 1)
    assert [path.name for path in (root / ".rootstock/runs").iterdir()] == ["nightly.claim"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("GIT_DIR", ".git"),
        ("GIT_WORK_TREE", "."),
        ("GIT_INDEX_FILE", ".git/index"),
        ("GIT_OBJECT_DIRECTORY", ".git/objects"),
        ("GIT_COMMON_DIR", ".git"),
    ],
)
def test_run_whose_worker_a_git_hook_started_leaves_the_repository_of_the_hook_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    other = make_repository(tmp_path / "other")
    before = contents(other)
    run = deployed(root)
    with monkeypatch.context() as hook:
        hook.setenv(name, str(other / path))
        work(run, "lock: 1\n", "factor: 7\n")
    assert contents(other) == before
    assert git(root, "diff", "--name-only", "HEAD", "runs/nightly").split() == ["dvc.lock", "params.yaml"]
    assert git(root, "status", "--short") == ""


def test_variables_that_git_takes_for_one_repository_are_known() -> None:
    known = subprocess.run(["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True, check=True).stdout
    settings = {"GIT_CONFIG", "GIT_CONFIG_PARAMETERS", "GIT_CONFIG_COUNT"}
    assert set(known.split()) - settings <= OF_ONE_REPOSITORY


def test_run_ignores_what_the_person_has_not_committed(root: Path) -> None:
    (root / "params.yaml").write_text("factor: half-finished\n")
    with working(deployed(root)) as folder:
        assert (folder / "params.yaml").read_text() == "factor: 1\n"
    assert (root / "params.yaml").read_text() == "factor: half-finished\n"


def test_next_run_starts_from_the_lock_of_the_run_before_and_the_params_of_the_commit(root: Path) -> None:
    work(deployed(root), "lock: 1\n", "factor: 7\n")
    with working(deployed(root, title="second")) as folder:
        assert (folder / "dvc.lock").read_text() == "lock: 1\n"
        assert (folder / "params.yaml").read_text() == "factor: 1\n"
        (folder / "dvc.lock").write_text("lock: 2\n")
    assert history(root) == ["Run nightly: second", "Run nightly: first", "The project"]


def test_run_that_changes_nothing_makes_no_commit(root: Path) -> None:
    work(deployed(root), "lock: 1\n")
    said: list[str] = []
    with working(deployed(root, said)):
        pass
    assert len(history(root)) == 2
    assert "Nothing new: runs/nightly stays as it is." in said


def test_new_code_is_the_second_parent(root: Path) -> None:
    work(deployed(root), "lock: 1\n")
    new = change(root, "add.py", "pass\n")
    with working(deployed(root, title="second")) as folder:
        assert (folder / "add.py").read_text() == "pass\n"
        assert (folder / "dvc.lock").read_text() == "lock: 1\n"
    assert history(root)[:2] == ["Run nightly: second", "Run nightly: first"]
    assert git(root, "rev-parse", "runs/nightly^2") == new
    work(deployed(root, title="third"), "lock: 3\n")
    assert len(git(root, "rev-parse", "runs/nightly^@").split()) == 1


def test_lock_that_a_person_merged_and_changed_is_taken(root: Path) -> None:
    work(deployed(root), "lock: 1\n")
    git(root, "merge", "-q", "runs/nightly")
    change(root, "dvc.lock", "lock: by hand\n")
    with working(deployed(root)) as folder:
        assert (folder / "dvc.lock").read_text() == "lock: by hand\n"


def fail(run: DeployedRun, error: BaseException) -> Path:
    """A run that is left by an error in the middle; gives its folder."""
    folders = []

    def body() -> None:
        with working(run) as folder:
            folders.append(folder)
            (folder / "dvc.lock").write_text(LOCK)
            (folder / "checkpoint").write_text("epoch 3")
            raise error

    with pytest.raises(type(error)):
        body()
    return folders[0]


@pytest.mark.parametrize(
    ("error", "words"), [(ValueError("no space\nat all"), "no space"), (KeyboardInterrupt(), "it was stopped")]
)
def test_unfinished_run_commits_nothing_and_the_next_goes_on_in_its_folder(
    root: Path, error: BaseException, words: str
) -> None:
    folder = fail(deployed(root), error)
    assert worktrees(root) == 2
    assert not git(root, "branch", "--list", "runs/*")
    change(root, "add.py", "pass\n")
    said: list[str] = []
    with working(deployed(root, said, "second")) as again:
        assert again == folder
        assert (again / "checkpoint").read_text() == "epoch 3"
        assert (again / "dvc.lock").read_text() == LOCK
        assert (again / "add.py").read_text() == "pass\n"
    assert f"Resumes the unfinished run first ({words}); its finished stages are kept." in said
    assert (worktrees(root), git(root, "show", "runs/nightly:dvc.lock")) == (1, LOCK.strip())


def test_folder_of_a_run_that_was_killed_is_found_again(root: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom tasks.runs.run_context import DeployedRun, safe_name\n"
        "from tasks.runs.worktrees import run_folder\n"
        "with run_folder(DeployedRun(Path(sys.argv[1]), 'nightly', sys.argv[2], 'first', print)) as context:\n"
        "    (context.workspace.folder / 'checkpoint').write_text('epoch 3')\n    os.kill(os.getpid(), 9)\n"
    )
    project = Path(__file__).parents[3]
    result = subprocess.run([sys.executable, "-c", program, root, git(root, "rev-parse", "HEAD")], cwd=project)
    assert result.returncode == -9
    said: list[str] = []
    with working(deployed(root, said)) as folder:
        assert (folder / "checkpoint").read_text() == "epoch 3"
    assert any("it was killed" in line for line in said)


def test_results_of_an_unfinished_run_are_dropped_if_the_branch_moved_on_since(root: Path) -> None:
    work(deployed(root), "lock: 1\n")
    fail(deployed(root, title="second"), ValueError("no"))
    git(root, "update-ref", "refs/heads/runs/nightly", "main")
    with working(deployed(root, title="third")) as folder:
        assert not (folder / "dvc.lock").exists()
        assert (folder / "checkpoint").exists()


def test_broken_folder_is_made_anew(root: Path) -> None:
    folder = fail(deployed(root), ValueError("no"))
    (folder / ".git").write_text("gitdir: /nowhere\n")
    with working(deployed(root)) as again:
        assert not (again / "checkpoint").exists()
        assert (again / "params.yaml").exists()
    assert worktrees(root) == 1


def test_second_of_two_runs_at_once_works_elsewhere_and_its_commit_is_refused(root: Path) -> None:
    def first() -> None:
        with working(deployed(root)) as frozen:
            (frozen / "dvc.lock").write_text("lock: late\n")
            with working(deployed(root, title="second")) as folder:
                assert folder != frozen
                (folder / "dvc.lock").write_text("lock: 2\n")

    with pytest.raises(RunError, match="moved on during this run"):
        first()
    assert git(root, "show", "runs/nightly:dvc.lock") == "lock: 2"


def test_error_in_a_claimed_folder_is_not_taken_for_a_claim(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), claim_folder(tmp_path, "a/b c"):
        raise BlockingIOError
    with claim_folder(tmp_path, "a/b c") as workspace:
        assert workspace.folder.name.startswith("a-b-c-")


def test_commit_that_does_not_exist_is_reported_in_words(root: Path) -> None:
    run = deployed(root)
    missing = DeployedRun(root, run.name, "1" * 40, run.title, run.say)
    with pytest.raises(RunError, match=r"neither in .* nor on its remotes.*git push"), run_folder(missing):
        pass


def test_folder_uses_the_cache_the_remotes_and_the_credentials_of_the_clone(root: Path, tmp_path: Path) -> None:
    dvc(root, "remote", "add", "-d", "store", "../store")
    dvc(root, "remote", "add", "cloud", "s3://bucket/prefix")
    dvc(root, "remote", "modify", "--local", "cloud", "access_key_id", "key")
    change(root, "other", "x")
    with working(deployed(root)) as folder:
        assert dvc(folder, "cache", "dir").strip() == str(root / ".dvc/cache")
        assert f"{tmp_path / 'store'} " in dvc(folder, "remote", "list")
        local = (folder / ".dvc/config.local").read_text()
        assert "key" in local
        assert "bucket" not in local
        dvc(folder, "repro", "count")
    assert list((root / ".dvc/cache/files").rglob("*"))


@pytest.mark.parametrize("name", ["images", "inside/images"])
def test_source_that_lies_in_the_clone_is_reached_from_the_folder(root: Path, name: str) -> None:
    for label in ("a", "b"):
        (root / name / label).mkdir(parents=True)
        (root / name / label / "1.jpg").write_text(label)
    with run_folder(deployed(root)) as context:
        before = sorted(context.workspace.folder.iterdir())
        listing = discover(name, SourcePolicy.of(load_settings(PROJECT), context.workspace))
        assert [image.read() for image in listing.images] == [b"a", b"b"]
        assert sorted(context.workspace.folder.iterdir()) == before


@pytest.mark.parametrize("left", [0, 40])
def test_torn_lock_of_an_unfinished_run_is_not_taken(root: Path, left: int) -> None:
    work(deployed(root), LOCK)
    folder = fail(deployed(root, title="second"), ValueError("no"))
    (folder / ".rootstock/dvc.lock").unlink(missing_ok=True)
    (folder / "dvc.lock").write_text(LOCK[:left])
    with working(deployed(root, title="third")) as again:
        assert (again / "checkpoint").exists()
        assert (again / "dvc.lock").read_text() == LOCK


@pytest.mark.parametrize("leftover", ["HEAD.lock", "index.lock", "empty index", "short index"])
def test_what_a_killed_git_left_in_the_folder_is_no_obstacle(root: Path, leftover: str) -> None:
    change(root, "old.py", "pass\n")
    folder = fail(deployed(root), ValueError("no"))
    index = Path(git(folder, "rev-parse", "--path-format=absolute", "--git-path", "index"))
    if leftover.endswith("index"):
        index.write_bytes(index.read_bytes()[: 0 if leftover == "empty index" else 50])
    else:
        index.with_name(leftover).touch()
    git(root, "rm", "-q", "old.py")
    git(root, "commit", "-q", "-m", "Remove it")
    with working(deployed(root)) as again:
        assert (again / "checkpoint").read_text() == "epoch 3"
        assert not (again / "old.py").exists()


def test_worktree_whose_head_is_lost_is_made_anew(root: Path) -> None:
    folder = fail(deployed(root), ValueError("no"))
    Path(git(folder, "rev-parse", "--path-format=absolute", "--git-path", "HEAD")).write_text("")
    with working(deployed(root)) as again:
        assert (again / "params.yaml").exists()
    assert worktrees(root) == 1


def test_worktree_of_a_person_on_a_disk_that_is_not_mounted_is_kept(root: Path, tmp_path: Path) -> None:
    git(root, "worktree", "add", "-q", "--detach", str(tmp_path / "disk"))
    (tmp_path / "disk").rename(tmp_path / "unmounted")
    work(deployed(root), LOCK)
    assert str(tmp_path / "disk") in git(root, "worktree", "list")


def test_hooks_of_the_clone_do_not_run(root: Path) -> None:
    for name in ("post-checkout", "reference-transaction"):
        hook = root / ".git/hooks" / name
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
    work(deployed(root), LOCK)
    assert len(history(root)) == 2
