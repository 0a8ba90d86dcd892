"""The last line of a terminal: it shows a silent step, never mixes with other lines, and goes away."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from tasks import live_line
from tasks.live_line import LiveLine
from tests.waiting import wait_until

COUNTED = {"done": 30, "total": 60, "unit": "images", "rate": 10.0, "seconds_left": 3.0, "details": {}}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(live_line, "sys", SimpleNamespace(stderr=terminal))
    monkeypatch.setattr(live_line, "_EVERY_S", 0.01)
    return terminal


def test_step_that_says_nothing_shows_how_long_it_has_taken(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(live_line, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with LiveLine("export"):
        now[0] += 65
        wait_until(lambda: "export: 1:05" in terminal.getvalue(), "the line", pause_s=0.01)
    assert terminal.getvalue().endswith("\r\x1b[2K")


def test_step_that_counts_shows_a_bar_and_the_time_left(terminal: Terminal) -> None:
    with LiveLine("features") as live:
        live.show(COUNTED)
        assert live.text() == "━" * 12 + "·" * 12 + " features: 30/60 images, 10.0 images/s, 0:03 left"
        live.show({**COUNTED, "done": 0, "rate": 0.0, "seconds_left": None})
        assert live.text() == "·" * 24 + " features: 0/60 images, 0:00"
        live.show({**COUNTED, "done": 60})
        assert live.text() == "features: 0:00"


def test_other_lines_stand_alone(terminal: Terminal) -> None:
    with LiveLine("features") as live:
        wait_until(lambda: "features" in terminal.getvalue(), "the line", pause_s=0.01)
        live.aside(lambda line: print(line, file=terminal), "16 images were excluded")
    before = terminal.getvalue().partition("16 images were excluded\n")[0]
    assert before.endswith("\r\x1b[2K")


def test_log_gets_no_such_line(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveLine("features") as live:
        live.show(COUNTED)
        live.aside(print, "16 images were excluded")
    assert capsys.readouterr() == ("16 images were excluded\n", "")
