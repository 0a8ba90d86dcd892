"""How many requests each client may send."""

from __future__ import annotations

import math
from collections import OrderedDict

from tasks.serving.problems import Problem

_CLIENTS = 10_000


class Rates:
    """A bucket of tokens for each address; a request takes one.

    Args:
        rate: tokens that each bucket gains, 1/s.
        burst: most tokens in a bucket.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, now: float) -> None:
        """Count a request of a client at a time, s.

        Raises:
            Problem: 429, it has no token left.
        """
        tokens, then = self._buckets.pop(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        self._buckets[client] = (max(tokens - 1, 0.0) if tokens >= 1 else tokens, now)
        if len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)
        if tokens < 1:
            raise Problem(429, f"More than {self._rate:g} requests/s.", math.ceil((1 - tokens) / self._rate))
