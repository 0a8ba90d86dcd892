"""Machines share the history of a deployment: each run begins from the newest one, and only one can follow it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.tasks.runs.machines import BRANCH, Machine, Site
from tests.tasks.runs.repository import git

INGEST = ("ingest",)
SPLITS = ("ingest", "prepare")
NOWHERE = "git://127.0.0.1:1/nothing"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Machine]:
    """A site, and a machine of it that has run a night; then it was killed in the next one, which had read an image."""
    site = Site(tmp_path_factory.mktemp("sharing") / "site")
    for number in range(6):
        site.add_image(f"image-{number}")
    machine = site.machine("one")
    assert machine.night("first") == 0, machine.said
    machine.read()
    site.save("idle")
    site.add_image("new")
    assert machine.night("killed", INGEST, kill_after="ingest") == -9
    site.save("worked")
    return site, machine


@pytest.fixture
def site(saved: tuple[Site, Machine]) -> Site:
    """After the first night."""
    saved[0].restore("idle")
    return saved[0]


@pytest.fixture
def one(site: Site, saved: tuple[Site, Machine]) -> Machine:
    del site  # it is as it was before this machine is used
    return saved[1]


@pytest.fixture
def worked(saved: tuple[Site, Machine]) -> tuple[Site, Machine]:
    """After the work of the second night: the next one has only to end it."""
    saved[0].restore("worked")
    return saved


def test_another_machine_goes_on_where_the_last_run_ended_and_reads_only_new_images(site: Site, one: Machine) -> None:
    before = site.splits()
    site.add_image("new")
    other = site.machine("other")
    assert other.night("second", SPLITS) == 0, other.said
    assert other.read() == ["new"]
    assert site.titles() == ["first", "second"]
    assert site.splits().items() > before.items()

    points = other.clone.with_suffix(".points")
    assert one.night("third", SPLITS, points=str(points)) == 0, one.said
    assert f"{BRANCH} is now at {other.git('rev-parse', BRANCH)[:10]}" in one.said
    assert "Nothing new" in one.said
    assert "push" not in points.read_text()
    assert site.titles() == ["first", "second"]


def test_run_that_ends_after_another_one_is_refused_and_the_next_begins_from_that_one(site: Site, one: Machine) -> None:
    late = site.machine("late")
    site.add_image("new")
    joined = one.plan("second", SPLITS)
    assert late.night("late", SPLITS, meanwhile=joined) == 2
    assert f"{BRANCH} moved on during this run: another run has pushed" in late.said
    folder = late.clone / ".rootstock/runs/nightly"
    assert (folder / "out/prepared/splits.json").exists()
    assert site.titles() == ["first", "second"]

    before = site.splits()
    changed = {key: {"train": "test"}.get(split, "train") for key, split in before.items()}
    (folder / "out/prepared/splits.json").unlink()
    (folder / "out/prepared/splits.json").write_text(
        str(changed).replace("'", '"')
    )  # it was drawn without the other run
    site.add_image("newer")
    assert late.night("third", SPLITS) == 0, late.said
    assert site.titles() == ["first", "second", "third"]
    assert site.splits().items() > before.items()
    assert not folder.exists()


def test_run_goes_on_without_a_remote_that_does_not_answer_and_waits_to_push(worked: tuple[Site, Machine]) -> None:
    site, one = worked
    one.git("remote", "set-url", "origin", NOWHERE)
    assert one.night("second", ()) == 75, one.said
    assert "origin doesn't answer, so this run begins from the last run in this clone." in one.said
    assert "Connection refused" in one.said
    assert "TransientError: git push" in one.said
    assert "run.outage_limit_s allows no more" in one.said
    assert site.titles() == ["first"]
    assert one.git("rev-parse", BRANCH) == git(site.history, "rev-parse", BRANCH)

    assert one.night("third", (), answers_later=f"remote set-url origin {site.history}") == 0, one.said
    assert "The next attempt is in" in one.said
    assert one.read() == ["new"]
    assert site.titles() == ["first", "third"]


def test_run_that_a_power_failure_damaged_here_is_fetched_again(worked: tuple[Site, Machine]) -> None:
    site, one = worked
    assert one.night("second", ()) == 0, one.said
    for name in one.git("rev-parse", BRANCH, f"{BRANCH}:dvc.lock").split():
        damaged = one.clone / ".git/objects" / name[:2] / name[2:]
        damaged.chmod(0o600)
        damaged.write_bytes(b"")
    assert one.night("third", ()) == 0, one.said
    assert f"{BRANCH} was damaged" in one.said
    assert "which another run has pushed to origin" in one.said
    assert one.git("rev-parse", BRANCH) == git(site.history, "rev-parse", BRANCH)
    assert one.git("fsck", "--no-dangling") == ""


def test_branch_is_not_pushed_before_its_data(worked: tuple[Site, Machine]) -> None:
    site, one = worked
    shutil.rmtree(site.store)
    site.store.write_text("a file where the folder should be")
    assert one.night("second", ()) == 75, one.said
    assert "TransientError: The data of this run can't be pushed" in one.said
    assert "Not a directory" in one.said
    assert site.titles() == ["first"]
    assert one.git("rev-parse", BRANCH) == git(site.history, "rev-parse", BRANCH)


def test_remote_that_refuses_is_reported_before_any_stage(site: Site, one: Machine) -> None:
    site.add_image("new")
    one.git("remote", "set-url", "origin", str(site.store))
    assert one.night("second", INGEST) == 2
    assert "does not appear to be a git repository" in one.said
    assert one.read() == []


def test_remote_that_protects_the_branch_is_reported_in_its_words(worked: tuple[Site, Machine]) -> None:
    site, one = worked
    hook = site.history / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho 'only the robot may push'\nexit 1\n")
    hook.chmod(0o755)
    assert one.night("second", ()) == 2
    assert "only the robot may push" in one.said
    assert "moved on" not in one.said


def test_history_from_before_it_was_shared_is_pushed_even_if_nothing_is_new(tmp_path: Path) -> None:
    site = Site(tmp_path, shared=False)
    site.add_image("image")
    one = site.machine("one")
    assert one.night("first", INGEST) == 0, one.said
    assert one.said.count("This copy of the history and its data is the only one: DVC has no default remote.") == 1
    assert "docs/versions.md" in one.said
    assert not site.store.exists()

    site.share(one.clone, "config.local")
    for title in ("second", "third"):
        assert one.night(title, ()) == 0, one.said
        assert "is the only one" not in one.said
    assert site.titles() == ["first"]
    assert len(site.objects()) == 2
    assert git(site.history, "rev-parse", BRANCH) == one.git("rev-parse", BRANCH)


@pytest.mark.parametrize("keep", ["origin", "clone"])
def test_histories_that_differ_are_refused_until_a_person_has_chosen_one(site: Site, one: Machine, keep: str) -> None:
    def follow(title: str) -> str:
        return one.git("commit-tree", f"{BRANCH}^{{tree}}", "-p", BRANCH, "-m", f"Run nightly: {title}")

    one.git("push", "-q", "origin", f"{follow('of the other')}:refs/heads/{BRANCH}")
    one.git("update-ref", f"refs/heads/{BRANCH}", follow("of this one"))
    assert one.night("refused") == 2
    assert "RunError: The histories of runs/nightly differ. origin lacks 1 commits of this clone" in one.said
    (command,) = (
        line.split(": ", 1)[1]
        for line in one.said.splitlines()
        if f"of {'this ' * (keep == 'clone')}{keep}: git" in line
    )
    one.git(*command.split()[1:])
    assert one.night("last", ()) == 0, one.said
    assert site.titles() == ["first", "of the other" if keep == "origin" else "of this one"]
    assert one.git("rev-parse", BRANCH) == git(site.history, "rev-parse", BRANCH)


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        (["remote remove origin"], "git has no remote"),
        (
            ["remote rename origin a", "remote add b /nowhere"],
            "git has several remotes, and remote.pushDefault names none",
        ),
    ],
)
def test_history_without_a_remote_of_git_is_said_to_be_the_only_copy(
    site: Site, commands: list[str], reason: str
) -> None:
    machine = site.machine("alone")
    for command in commands:
        machine.git(*command.split())
    assert machine.night("first", ()) == 0, machine.said
    assert f"is the only one: {reason}." in machine.said


def test_remote_that_a_person_pushes_to_by_default_is_used(site: Site) -> None:
    machine = site.machine("two")
    machine.git("remote", "add", "fork", str(site.history))
    machine.git("remote", "set-url", "origin", NOWHERE)
    machine.git("config", "remote.pushDefault", "fork")
    assert machine.night("second", ()) == 0, machine.said
    assert "which another run has pushed to fork." in machine.said
