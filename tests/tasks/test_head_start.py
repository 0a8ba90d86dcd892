"""Stages that begin before their flow: it gets all that they say, and their failures; it stops them when it stops."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tasks.head_start import HeadStart, stages_in_order
from tasks.params import load_settings
from tasks.runs.stage_failure import StageFailed
from tasks.workspace import Workspace
from tests.conftest import PARAMS, PROJECT
from tests.tasks.runs.test_supervisor import make_repository
from tests.waiting import is_running, wait_until

SAYS = """
import pathlib, time
from tasks.progress import Progress
with pathlib.Path("ran").open("a") as file:
    file.write("{name} ")
with Progress("{name}", 1, "images") as progress:
    progress.advance()
print("{name} says this")
while pathlib.Path("wait-{name}").exists():
    time.sleep(0.02)
print("{name} ends")
"""
SLEEPS = """
import os, time
print("it begins", flush=True)
open(f"alive-{os.getpid()}", "w")
time.sleep(600)
"""
STAGES = ("first", "second", "third")


class Told:
    """What a flow hears of its stages."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.states: list[dict[str, Any]] = []

    def words(self) -> list[str]:
        return [line for line in self.lines if line.endswith(("says this", "ends", "skipping"))]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    return make_repository(tmp_path, **{name: SAYS.format(name=name) for name in STAGES})


def head_start(folder: Path) -> HeadStart:
    plan: Any = SimpleNamespace(text="The plan")
    return HeadStart(STAGES, Workspace.at(folder), 60.0, plan)


def ran(folder: Path) -> list[str]:
    return (folder / "ran").read_text().split() if (folder / "ran").exists() else []


def test_flow_gets_everything_of_stages_that_ended_before_it_and_starts_the_others(folder: Path, told: Told) -> None:
    (folder / "wait-second").touch()
    with head_start(folder) as start:
        wait_until(lambda: ran(folder) == ["first", "second"], "the second stage to begin")
        assert start.take_over("first", told.lines.append, told.states.append)
        assert told.words() == ["first says this", "first ends"]
        assert told.states[-1]["done"] == 1

        def let_go(line: str) -> None:
            told.lines.append(line)
            (folder / "wait-second").unlink(missing_ok=True)

        assert start.take_over("second", let_go, told.states.append)
        assert told.words()[2:] == ["second says this", "second ends"]
        assert not start.take_over("third", told.lines.append, told.states.append)
    assert ran(folder) == ["first", "second"]


def test_stage_that_failed_tells_its_flow_once_and_none_begins_after_it(folder: Path, told: Told) -> None:
    (folder / "first.py").write_text("raise SystemExit('SettingsError: wrong')")
    with head_start(folder) as start:
        wait_until(lambda: not start.is_working(), "the first stage to fail")
        with pytest.raises(StageFailed, match="SettingsError: wrong"):
            start.take_over("first", told.lines.append, told.states.append)
        assert not start.take_over("first", told.lines.append, told.states.append)
        assert not start.take_over("second", told.lines.append, told.states.append)
    assert ran(folder) == []


def test_stage_that_did_not_change_is_told_too(folder: Path, told: Told) -> None:
    for _ in range(2):
        with head_start(folder) as start:
            wait_until(lambda start=start: not start.is_working(), "all stages to end")  # type: ignore[misc]
            for name in STAGES:
                assert start.take_over(name, told.lines.append, told.states.append)
    assert told.words()[6:] == [f"Stage '{name}' didn't change, skipping" for name in STAGES]


def test_all_stages_of_dvc_yaml_are_in_its_order() -> None:
    settings = load_settings(PARAMS.parent)
    names = [name for name in yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"] if name != "train"]
    stages = stages_in_order(settings)
    assert [name for name in stages if "@" not in name] == names
    assert stages[3:-2] == [f"train@{strategy}" for strategy in settings.strategies]


@pytest.mark.parametrize("where", ["before the flow", "in the flow"])
def test_run_that_is_stopped_stops_its_stage(tmp_path: Path, where: str) -> None:
    folder = make_repository(tmp_path, first=SLEEPS, second="open('ran', 'w')")

    def stage() -> int:
        wait_until(lambda: bool(list(folder.glob("alive-*"))), "the stage to begin")
        return int(next(folder.glob("alive-*")).name.removeprefix("alive-"))

    def interrupt(_line: str = "") -> None:
        assert is_running(stage())
        raise KeyboardInterrupt

    def flow(start: HeadStart) -> None:
        try:
            start.take_over("first", interrupt, print)
        finally:  # before Prefect is told, which may take long
            assert not is_running(stage())

    with contextlib.suppress(KeyboardInterrupt), head_start(folder) as start:
        interrupt() if where == "before the flow" else flow(start)
    assert not is_running(stage())
    assert ran(folder) == []
