"""The last line of a terminal: what a command does, and for how long already. It moves even if the step is silent."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from tasks.progress import bar, clock, describe

_EVERY_S = 0.5
_ERASE = "\r\x1b[2K"


class LiveLine:
    """Shows a step until it ends, if standard error is a terminal; other lines must be printed by `aside`.

    Args:
        step: what is done, such as `features`.
    """

    def __init__(self, step: str) -> None:
        self._step = step
        self._state: Mapping[str, Any] | None = None
        self._start = time.monotonic()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._move, daemon=True) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread:
            self._ended.set()
            self._thread.join()
            self._write(_ERASE)

    def show(self, state: Mapping[str, Any]) -> None:
        """The next lines show this state of `tasks.progress.Progress`."""
        self._state = state

    def aside(self, print_line: Callable[[str], None], line: str) -> None:
        """Print another line above this one."""
        with self._lock:
            if self._thread:
                self._write(_ERASE)
            print_line(line)

    def _move(self) -> None:
        while True:
            with self._lock:
                self._write(_ERASE + self.text())
            if self._ended.wait(_EVERY_S):
                return

    def text(self) -> str:
        """A bar and the time left; the time since the start as long as none can be told."""
        passed = clock(time.monotonic() - self._start)
        if self._state is None or self._state["done"] >= self._state["total"]:
            return f"{self._step}: {passed}"
        known = describe(self._state) if self._state["done"] else f"{describe(self._state)}, {passed}"
        return f"{bar(self._state)} {self._step}: {known}"

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
