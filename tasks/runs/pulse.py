"""Whether somebody far away still lives, by what is heard of him and the own monotonic clock alone."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pulse:
    """Silence, measured.

    Args:
        clock: the monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: str | None = None
        self._since = clock()

    def is_lost(self, heard: str, limit_s: float) -> bool:
        """Note what is heard now; whether it has been the same for longer than the limit, in seconds."""
        if heard != self._heard:
            self._heard = heard
            self.forgive()
        return self._clock() - self._since > limit_s

    def forgive(self) -> None:
        """Count the silence from now on."""
        self._since = self._clock()
