"""Stops a training by a signal, after its position is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


class StopRequest:
    """A context in which SIGTERM and SIGINT stop the training at the next step, after its position is saved."""

    def __enter__(self) -> StopRequest:
        self._asked = 0
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self, save: Callable[[], None]) -> None:
        """Save and exit if a signal has asked to stop."""
        if self._asked:
            save()
            raise SystemExit(128 + self._asked)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self._asked = number
