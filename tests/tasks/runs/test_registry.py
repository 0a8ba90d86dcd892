"""The registry: GTO and DVC read its tags, one of two promoters wins, and who is killed leaves the old or new state."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.errors import RunError
from tasks.runs import registry as module
from tasks.runs import supervisor
from tasks.runs.promotions import Promoter, Verdict
from tasks.runs.registry import TakenError, add_entry, read_registry
from tasks.runs.retention import kept_commits
from tests.tasks.runs.nights import fork_dvc
from tests.tasks.runs.promoting import PASSED, killed_at, make_project, make_version, promoter, refused
from tests.tasks.runs.repository import commit as commit_all
from tests.tasks.runs.repository import dvc, git


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DVC's remote."""
    return tmp_path_factory.mktemp("store") / "store"


@pytest.fixture(scope="module")
def versions(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A project whose git has no remote, and three commits with different models."""
    clone = make_project(tmp_path_factory.mktemp("versions") / "clone", store)
    return clone, [make_version(clone, text, 0.9 + 0.01 * number) for number, text in enumerate("abc")]


@pytest.fixture
def clone(versions: tuple[Path, list[str]], tmp_path: Path) -> Path:
    shutil.copytree(versions[0], tmp_path / "clone", symlinks=True)
    return tmp_path / "clone"


@pytest.fixture(autouse=True)
def quick_dvc(monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC's commands are forked from this process, which has imported DVC."""
    monkeypatch.setattr(supervisor, "supervise", fork_dvc)


@pytest.fixture
def commits(versions: tuple[Path, list[str]]) -> list[str]:
    return versions[1]


def gto(folder: Path, *arguments: str) -> str:
    command = ["gto", *arguments]
    environment = {**os.environ, "COLUMNS": "300"}
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


def in_production(clone: Path) -> str | None:
    now = read_registry(clone).production
    return now.version if now else None


def share(clone: Path, folder: Path) -> Path:
    """Give git of a clone a remote, which thus decides; gives the remote."""
    git(folder, "clone", "-q", "--bare", str(clone), str(folder / "history.git"))
    git(clone, "remote", "add", "origin", str(folder / "history.git"))
    return folder / "history.git"


def test_gto_and_dvc_read_what_is_registered_promoted_and_taken_back(
    clone: Path, commits: Sequence[str], tmp_path: Path
) -> None:
    ours = promoter(clone)
    for commit in commits:
        ours.register(commit, "a test")
    ours.promote("v1.0.0", "the first")
    ours.promote("v1.2.0", "better")
    assert in_production(clone) == "v1.2.0"
    ours.roll_back("it calls ants bees")
    assert in_production(clone) == "v1.0.0"

    assert re.search(r"v1.0.0 +production", gto(clone, "show", "champion#production", "--plain"))
    history = [line.split()[3:6] for line in gto(clone, "history", "champion", "--plain").splitlines()[1:]]
    assert history[:3] == [["assignment", f"v1.{minor}.0", "production"] for minor in (0, 2, 0)]
    assert history[3:] == [["registration", f"v1.{minor}.0", "-"] for minor in (2, 1, 0)]
    dvc(tmp_path, "artifacts", "get", str(clone), "champion", "--stage", "production", "-o", "got")
    assert (tmp_path / "got/model.txt").read_text() == "a"
    dvc(tmp_path, "artifacts", "get", str(clone), "champion", "--rev", "v1.2.0", "-o", "newest")
    assert (tmp_path / "newest/model.txt").read_text() == "c"


def test_what_gto_registers_and_assigns_counts(clone: Path, commits: Sequence[str]) -> None:
    git(clone, "config", "user.name", "t"), git(clone, "config", "user.email", "t@t")
    gto(clone, "register", "champion", commits[0])
    gto(clone, "assign", "champion", "--version", "v0.0.1", "--stage", "production")
    assert in_production(clone) == "v0.0.1"
    ours = promoter(clone)
    assert ours.register(commits[1], "a test").version == "v1.0.0"
    ours.promote("v1.0.0", "better")
    ours.roll_back("worse")
    assert in_production(clone) == "v0.0.1"
    assert read_registry(clone).next_number == 4


def test_version_tells_of_metrics_digests_verdict_who_and_why(clone: Path, commits: Sequence[str]) -> None:
    version = promoter(clone).register(commits[0], "the run amber-fox")
    assert version.by == "Ada"
    assert version.subject == (
        "Champion v1.0.0: test accuracy 0.9000 (95 % interval 0.8500 to 0.9500, 100 images); passed the gate"
    )
    lock = (clone / "dvc.lock").read_text()
    about = version.about
    assert about["model"]["md5"] not in lock  # that of another commit
    assert about["model"]["md5"] in git(clone, "show", f"{commits[0]}:dvc.lock")
    assert (about["why"], about["by"], about["gate"]["passed"]) == ("the run amber-fox", "Ada", True)
    assert about["metrics"] == {"accuracy": 0.9, "accuracy_ci95": [0.85, 0.9500000000000001], "n": 100}


def test_same_model_is_not_registered_again(clone: Path, commits: Sequence[str]) -> None:
    ours = promoter(clone)
    first = ours.register(commits[0], "a test")
    again = git(clone, "commit-tree", f"{commits[0]}^{{tree}}", "-p", commits[0], "-m", "Nothing new")
    assert ours.register(again, "a test") == first
    assert len(read_registry(clone).versions) == 1


def test_first_number_goes_up_if_the_classes_change(clone: Path, commits: Sequence[str]) -> None:
    classes = iter([["ant"], ["ant"], ["ant", "bee"]])
    ours = promoter(clone, lambda *_: {**PASSED, "classes": next(classes)})
    assert [ours.register(commit, "a test").version for commit in commits] == ["v1.0.0", "v1.1.0", "v2.0.0"]


def test_refused_version_is_kept_and_a_person_can_override_with_a_reason(clone: Path, commits: Sequence[str]) -> None:
    ours = promoter(clone, lambda *_: refused("It is worse by 3 points."))
    version = ours.register(commits[0], "a test")
    assert version.subject.endswith("refused by the gate: accuracy")
    with pytest.raises(RunError, match=r"The gate refuses v1.0.0(.|\n)*It is worse by 3 points.(.|\n)*--override"):
        ours.promote("v1.0.0", "please")
    assert in_production(clone) is None
    ours.promote("v1.0.0", "the old one is broken", override=True)
    (entry,) = read_registry(clone).assigned("production")
    assert (entry.about["override"], entry.about["why"]) == (True, "the old one is broken")
    assert not entry.about["gate"]["passed"]


def test_who_goes_back_twice_goes_back_two_versions(clone: Path, commits: Sequence[str]) -> None:
    ours = promoter(clone)
    for commit in commits:
        ours.promote(ours.register(commit, "a test").version, "newer")
    assert [ours.roll_back("bad").version for _ in range(2)] == ["v1.1.0", "v1.0.0"]
    with pytest.raises(RunError, match=r"no version to go back to: production has had v1.0.0 only"):
        ours.roll_back("bad")


def test_declined_version_counts_as_decided(clone: Path, commits: Sequence[str]) -> None:
    ours = promoter(clone)
    version = ours.register(commits[0], "a test")
    assert not read_registry(clone).is_decided(version)
    ours.decline("v1.0.0", "not before the fair")
    assert read_registry(clone).is_decided(version)
    assert in_production(clone) is None


def test_version_that_production_has_overtaken_counts_as_decided(clone: Path, commits: Sequence[str]) -> None:
    ours = promoter(clone)
    older, newer = (ours.register(commit, "a test", "nightly") for commit in commits[:2])
    ours.promote(newer.version, "better")
    assert read_registry(clone).is_decided(older)
    newest = ours.register(commits[2], "a test", "nightly")
    assert not read_registry(clone).is_decided(newest)


def test_times_go_up_whatever_the_clock_says_so_that_gto_takes_the_last_promotion(
    clone: Path, commits: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = promoter(clone)
    names = [ours.register(commit, "a test").version for commit in commits[:2]]
    ours.promote(names[0], "the first")
    monkeypatch.setattr(module.time, "time", lambda: 1e9)  # a machine whose clock is years behind
    ours.promote(names[1], "the second")
    assert in_production(clone) == names[1]
    assert "v1.1.0" in gto(clone, "show", "champion#production", "--plain")


@pytest.mark.slow
def test_of_two_promoters_at_once_one_wins_and_the_other_one_checks_the_gate_again(
    clone: Path, commits: Sequence[str], tmp_path: Path
) -> None:
    for commit in commits:
        promoter(clone).register(commit, "a test")
    promoter(clone).promote("v1.0.0", "the first")
    history = share(clone, tmp_path)
    first = promoter(clone)
    git(tmp_path, "clone", "-q", str(history), "other")
    judged: list[tuple[str, str | None]] = []
    said: list[str] = []

    def judge(candidate: str, production: str | None) -> Verdict:
        judged.append((candidate, production))
        if len(judged) == 1:
            first.promote("v1.1.0", "faster")
        return PASSED

    other = promoter(tmp_path / "other", judge, said)
    other.promote("v1.2.0", "slower")
    assert judged == [(commits[2], commits[0]), (commits[2], commits[1])]
    assert any("champion#production#2 is on origin already: somebody else was faster." in line for line in said), said
    remote = read_registry(history)
    assert [one.about["version"] for one in remote.assigned("production")] == ["v1.0.0", "v1.1.0", "v1.2.0"]
    assert [one.about["before"] for one in remote.assigned("production")] == [None, "v1.0.0", "v1.1.0"]
    assert [one.number for one in remote.assigned("production")] == [1, 2, 3]


def test_roll_back_of_a_state_that_somebody_has_changed_meanwhile_is_refused(
    clone: Path, commits: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = promoter(clone)
    for commit in commits:
        ours.promote(ours.register(commit, "a test").version, "newer")
    stale = read_registry(clone)
    ours.promote("v1.0.0", "somebody else")
    monkeypatch.setattr(Promoter, "read", lambda _: stale)
    with pytest.raises(RunError, match="Somebody else has changed production meanwhile"):
        ours.roll_back("bad")
    assert in_production(clone) == "v1.0.0"


@pytest.mark.slow
def test_promoter_that_is_killed_at_any_step_leaves_the_old_state_or_the_new_one(
    clone: Path, commits: Sequence[str], store: Path, tmp_path: Path
) -> None:
    for commit in commits[:2]:
        promoter(clone).register(commit, "a test")
    promoter(clone).promote("v1.0.0", "the first")
    history = share(clone, tmp_path)
    shutil.rmtree(store, ignore_errors=True)  # the version's data have to be pushed before it is promoted
    ours = promoter(clone)
    for step in range(100):
        was_killed = killed_at(step, lambda: ours.promote("v1.1.0", "newer"))
        state = in_production(history)
        assert state in ("v1.0.0", "v1.1.0")
        if state == "v1.1.0":
            dvc(tmp_path, "artifacts", "get", str(history), "champion", "--stage", "production", "-o", f"got-{step}")
            assert (tmp_path / f"got-{step}/model.txt").read_text() == "b"
        if not was_killed:
            break
    assert step > 10
    assert in_production(clone) == in_production(history) == "v1.1.0"
    assert len(read_registry(history).assigned("production")) == 2


def test_lock_that_a_killed_git_left_is_removed_and_a_tag_is_made_once(clone: Path, commits: Sequence[str]) -> None:
    lock = clone / ".git/refs/tags/champion@v1.0.0.lock"
    lock.touch()
    os.utime(lock, (1e9, 1e9))
    said: list[str] = []
    ours = promoter(clone, said=said)
    ours.register(commits[0], "a test")
    assert any("which a killed git had left" in line for line in said)
    with pytest.raises(TakenError, match="exists already"):
        add_entry(clone, None, read_registry(clone), "champion@v1.0.0", commits[1], "again", {}, str)


def test_clone_with_tags_of_its_own_is_told_what_to_do(clone: Path, commits: Sequence[str], tmp_path: Path) -> None:
    promoter(clone).register(commits[0], "alone")
    history = share(clone, tmp_path)
    git(history, "update-ref", "refs/tags/champion@v1.0.0", commits[0])
    with pytest.raises(RunError, match=r"different tags of the same name(.|\n)*git fetch --force origin"):
        promoter(clone).register(commits[1], "shared")


def test_what_was_registered_before_git_had_a_remote_is_pushed_with_its_data(
    clone: Path, commits: Sequence[str], store: Path, tmp_path: Path
) -> None:
    alone = promoter(clone)
    for commit in commits[:2]:
        alone.promote(alone.register(commit, "alone").version, "newer")
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(tmp_path / "history.git"))
    git(clone, "remote", "add", "origin", str(tmp_path / "history.git"))
    git(clone, "push", "-q", "origin", "main")
    shutil.rmtree(store, ignore_errors=True)
    said: list[str] = []
    promoter(clone, said=said).register(commits[2], "shared")
    there = read_registry(tmp_path / "history.git")
    assert [one.tag for one in there.entries] == [one.tag for one in read_registry(clone).entries]
    assert [one.version for one in there.versions] == ["v1.0.0", "v1.1.0", "v1.2.0"]
    assert said[0] == "Pushed the registry of this clone, 4 tags, to origin."
    dvc(tmp_path, "artifacts", "get", str(tmp_path / "history.git"), "champion", "--rev", "v1.0.0", "-o", "got")
    assert (tmp_path / "got/model.txt").read_text() == "a"
    git(clone, "push", "-q", "origin", "--delete", "champion@v1.2.0")  # as the docs say, but not here
    promoter(clone).read()
    assert [one.version for one in read_registry(tmp_path / "history.git").versions] == ["v1.0.0", "v1.1.0"]


def test_version_whose_commit_names_no_remote_of_dvc_stays_here_and_is_told(
    clone: Path, commits: Sequence[str], tmp_path: Path
) -> None:
    (clone / ".dvc/config").write_text("")
    lonely = commit_all(clone, "Without a remote")
    git(clone, "checkout", "-q", commits[0])
    alone = promoter(clone)
    alone.register(commits[0], "alone")
    alone.register(lonely, "alone", "another deployment")
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(tmp_path / "history.git"))
    git(clone, "remote", "add", "origin", str(tmp_path / "history.git"))
    said: list[str] = []
    promoter(clone, said=said).read()
    assert [one.commit for one in read_registry(tmp_path / "history.git").versions] == [commits[0]]
    assert f"The model of {lonely[:10]} stays in this clone: its commit names no remote of DVC" in said


def test_tidying_keeps_the_data_of_registered_versions(clone: Path, commits: Sequence[str]) -> None:
    promoter(clone).register(commits[0], "a test")
    assert kept_commits(clone, 1)["tagged versions"] == [commits[0]]


def test_commit_without_a_model_is_not_registered(clone: Path) -> None:
    git(clone, "rm", "-q", "dvc.lock"), git(clone, "commit", "-qm", "No model")
    assert promoter(clone).register(git(clone, "rev-parse", "HEAD"), "a test") is None
