"""Progress of a stage: a line on the terminal, and a small JSON file for the stage's supervisor."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

PROGRESS_VARIABLE = "ROOTSTOCK_PROGRESS"
"""The environment variable that holds the path of the JSON file."""


class Progress:
    """Counts units of work; shows units/s and the time left.

    The JSON file is replaced at most twice a second. It holds `stage`, `done`, `total`, `unit`, `rate` (units/s of
    this run), `seconds_left` (null before the first unit) and `details` (live metrics).

    Args:
        stage: its name, such as `features`.
        total: all units, including those already done.
        unit: plural name of the units, such as `images`.
        done: units that an earlier run has finished; they don't count for the rate.
    """

    def __init__(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.done = self._reused = done
        self.details: dict[str, float] = {}
        self._start = time.monotonic()
        self._shown = self._written = float("-inf")
        file = os.environ.get(PROGRESS_VARIABLE)
        self._file = Path(file) if file else None
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Self:
        self._show(force=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._show(force=True)
        if self._terminal:
            print(file=sys.stderr)

    @property
    def rate(self) -> float:
        """Units/s since the start of this run."""
        elapsed = time.monotonic() - self._start
        return (self.done - self._reused) / elapsed if elapsed > 0 else 0.0

    def advance(self, units: int = 1, details: Mapping[str, float] | None = None) -> None:
        """Count units as done; `details` are live metrics to show beside them."""
        self.done += units
        self.details.update(details or {})
        self._show()

    def _show(self, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._written >= 0.5:
            self._written = now
            self._write()
        if force or now - self._shown >= (0.2 if self._terminal else 10.0):
            self._shown = now
            print(self._line(), end="" if self._terminal else "\n", file=sys.stderr, flush=True)

    def state(self) -> dict[str, Any]:
        left = (self.total - self.done) / self.rate if self.rate > 0 else None
        return {
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "rate": round(self.rate, 2),
            "seconds_left": None if left is None else round(left, 1),
            "details": self.details,
        }

    def _line(self) -> str:
        line = f"{self.stage}: {describe(self.state())}"
        if not self._terminal:
            return line
        return f"\r\x1b[2K{bar(self.state())} {line}"

    def _write(self) -> None:
        if self._file is None:
            return
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        temporary.write_text(json.dumps(self.state()), encoding="utf-8")
        temporary.replace(self._file)


def describe(state: Mapping[str, Any]) -> str:
    """A state of `Progress` in words: units done, units/s, time left, and the live metrics."""
    rate, unit = state["rate"], state["unit"]
    parts = [f"{state['done']}/{state['total']} {unit}"]
    if rate:
        parts.append(f"{rate:.1f} {unit}/s" if rate >= 1 else f"{rate:.2g} {unit}/s")
    if state["seconds_left"] and state["done"] < state["total"]:
        parts.append(f"{clock(state['seconds_left'])} left")
    return ", ".join([*parts, *(f"{name} {value:.4g}" for name, value in state["details"].items())])


def bar(state: Mapping[str, Any]) -> str:
    """A state of `Progress` as a bar of 24 characters."""
    share = state["done"] / state["total"] if state["total"] else 1.0
    return ("━" * round(24 * share)).ljust(24, "·")


def clock(seconds: float) -> str:
    """Minutes and seconds, such as 1:05."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"
