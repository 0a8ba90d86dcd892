"""Measures how long somebody has been silent, by the monotonic clock of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable


class Silence:
    """Measures how long a message has been the same.

    Args:
        clock: the monotonic clock, seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: str | None = None
        self._since = clock()

    def is_longer(self, heard: str, limit_s: float) -> bool:
        """Note the present message. Returns whether it has been the same for longer than the limit, in seconds."""
        if heard != self._heard:
            self._heard = heard
            self.restart()
        return self._clock() - self._since > limit_s

    def restart(self) -> None:
        """Start counting again."""
        self._since = self._clock()
