"""Runs and tidying wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.runs.tidying import (
    keep_untidied,
    tidy_after,
    tidying,
)
from tasks.workspace import Workspace
from tests.tasks.runs.repository import make_repository
from tests.tasks.runs.tidied import are_kept, night


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "clone")


def begins(hold: Callable[[Callable[[str], None]], object]) -> tuple[threading.Thread, list[str], threading.Event]:
    """Something that begins beside this test: what it says, and whether it goes on."""
    said: list[str] = []
    waits, works = threading.Event(), threading.Event()

    def go() -> None:
        with hold(lambda line: (said.append(line), waits.set())):  # type: ignore[attr-defined]
            works.set()

    thread = threading.Thread(target=go)
    thread.start()
    assert waits.wait(60)
    return thread, said, works


def test_tidying_waits_for_runs_and_says_for_which(root: Path) -> None:
    workspace = Workspace.at(root)
    with keep_untidied(workspace, "nightly", print), keep_untidied(workspace, "weekly", print):
        thread, said, works = begins(lambda say: tidying(workspace, say))
        assert not works.is_set()
    thread.join(60)
    assert works.is_set()
    assert said == ["weekly"]


def test_run_waits_for_tidying_and_says_so(root: Path) -> None:
    workspace = Workspace.at(root)
    with tidying(workspace, None) as is_mine:
        assert is_mine
        thread, said, works = begins(lambda say: keep_untidied(workspace, "nightly", say))
        assert not works.is_set()
    thread.join(60)
    assert works.is_set()
    assert said == ["Waits for `make tidy`, which deletes old data in this clone."]


def test_run_tidies_at_its_end_unless_another_is_active(root: Path) -> None:
    nights = [night(root, f"night {number}") for number in range(3)]
    workspace, said = Workspace.at(root), list[str]()
    with keep_untidied(workspace, "weekly", print):
        tidy_after(workspace, 1, said.append)
    assert all(map(are_kept, nights))
    assert not said
    tidy_after(workspace, 1, said.append)
    assert [are_kept(files) for files in nights] == [False, False, True]
    assert len(said) == 1
    tidy_after(workspace, 1, said.append)
    assert len(said) == 1


def test_failure_of_tidying_at_the_end_of_a_run_is_one_line(root: Path) -> None:
    (root / "dvc.yaml").write_text("stages: 1\n")
    said: list[str] = []
    tidy_after(Workspace.at(root), 1, said.append)
    assert len(said) == 1
    assert "the run is not affected" in said[0]
    assert "\n" not in said[0]
