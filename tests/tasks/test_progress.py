"""Progress: correct counts in the file that the supervisor reads, and rates of this run only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks import progress
from tasks.progress import PROGRESS_VARIABLE, Progress, describe


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in its only element."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_progress_file_holds_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "progress.json"
    monkeypatch.setenv(PROGRESS_VARIABLE, str(file))
    with Progress("train", 3, "epochs") as shown:
        assert json.loads(file.read_text())["done"] == 0
        for number in range(3):
            shown.advance(details={"loss": 1 / (number + 1)})
    state = json.loads(file.read_text())
    assert (state["stage"], state["done"], state["total"], state["unit"]) == ("train", 3, 3, "epochs")
    assert state["details"] == {"loss": pytest.approx(1 / 3)}
    assert list(tmp_path.iterdir()) == [file]


def test_progress_file_tells_how_far_a_failed_stage_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "progress.json"
    monkeypatch.setenv(PROGRESS_VARIABLE, str(file))

    def fail() -> None:
        with Progress("features", 10, "images") as shown:
            shown.advance(4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert json.loads(file.read_text())["done"] == 4


def test_progress_writes_at_most_twice_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    file = tmp_path / "progress.json"
    monkeypatch.setenv(PROGRESS_VARIABLE, str(file))
    with Progress("prepare", 100, "images") as shown:
        shown.advance(10)
        assert json.loads(file.read_text())["done"] == 0
        clock[0] += 0.5
        shown.advance(10)
        assert json.loads(file.read_text())["done"] == 20


def test_rate_counts_this_run_only(clock: list[float]) -> None:
    with Progress("features", 100, "images", done=60) as shown:
        assert shown.state()["seconds_left"] is None
        clock[0] += 10
        shown.advance(20)
        assert shown.rate == 2
        assert shown.state()["seconds_left"] == 10


def test_progress_line_is_plain_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Progress("features", 100, "images", done=60) as shown:
        clock[0] += 10
        shown.advance(20, details={"loss": 0.25})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "features: 60/100 images"
    assert lines[1] == "features: 80/100 images, 2.0 images/s, 0:10 left, loss 0.25"


def test_progress_of_nothing_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("prepare", 0, "images"):
        pass
    assert "0/0 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "3/10 epochs, 0.5 epochs/s, 1:15 left"),
        ({"rate": 0.0, "seconds_left": None}, "3/10 epochs"),
        ({"done": 10, "seconds_left": 0.0}, "10/10 epochs, 0.5 epochs/s"),
        ({"rate": 0.0123}, "3/10 epochs, 0.012 epochs/s, 1:15 left"),
        ({"rate": 2.0}, "3/10 epochs, 2.0 epochs/s, 1:15 left"),
        ({"details": {"loss": 0.123456}}, "3/10 epochs, 0.5 epochs/s, 1:15 left, loss 0.1235"),
    ],
)
def test_describe_tells_what_is_known(changes: dict[str, Any], text: str) -> None:
    state = {
        "stage": "train",
        "done": 3,
        "total": 10,
        "unit": "epochs",
        "rate": 0.5,
        "seconds_left": 74.6,
        "details": {},
    }
    assert describe({**state, **changes}) == text
