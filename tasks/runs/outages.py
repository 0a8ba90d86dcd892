"""Waits until what doesn't answer answers again: pauses grow, and one run waits only so long in all."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from tasks.errors import RootstockError, TransientError
from tasks.markdown_tables import duration
from tasks.runs.stage_failure import Remedy, StageFailed

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0
_LEAST_SHARE = 0.75
"""A pause is shorter by chance, so that runs that wait for the same server don't all come back at once."""

_NO_ANSWER = re.compile(
    r"(could(n't| not)|failed to) (connect|resolve)|name resolution|name or service not known|unreachable|no route"
    r"|connection (was |has been )?(closed|refused|reset|aborted|lost|broken)|(server|host) (disconnected|is down)"
    r"|time(d[ -]?|-?)out|payload is not completed|broken pipe|unexpected.(eof|disconnect)|early eof|hung up|too slow"
    r"|service unavailable|bad gateway|internal ?error|slow ?down|throttl|too many ?requests|max retries"
    r"|\((429|5\d\d)\)|returned error: (429|5\d\d)",
    re.IGNORECASE,
)
"""The words of git, ssh, curl, and of DVC with the libraries of its remotes."""

Result = TypeVar("Result")


def tells_of_outage(text: str) -> bool:
    """Whether a program's messages say that a server, or the network, doesn't answer."""
    return _NO_ANSWER.search(text) is not None


class Outages:
    """The outages of one run, and how long it has waited for them.

    Args:
        sleep: waits for so many seconds.
        clock: the monotonic clock, seconds.

    Attributes:
        waited_s: the sum of all pauses, and of repeated attempts in vain, seconds.
    """

    def __init__(
        self, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sleep, self._clock = sleep, clock
        self.waited_s = 0.0

    def outlast(self, act: Callable[[], Result], limit_s: float, say: Callable[[str], None], tries: int = 1) -> Result:
        """Do something, after each outage again.

        Args:
            act: may be called several times.
            limit_s: `run.outage_limit_s`: how long the run may wait in all, seconds.
            say: tells a person about a pause.
            tries: how often it is tried if it fails for a reason that nobody knows.

        Raises:
            RootstockError: the last failure: no pause helps, or the time for pauses is used up.
        """
        pauses = unknown = 0
        is_repeated = False
        while True:
            began = self._clock()
            try:
                return act()
            except RootstockError as failure:
                unknown += _remedy(failure) is Remedy.RETRY
                if _remedy(failure) is Remedy.FIX or unknown >= tries:
                    raise
                took_s = self._clock() - began
                if took_s > LONGEST_PAUSE_S:  # much may have been done in between: perhaps this is a new outage
                    pauses = 0
                if is_repeated:
                    self.waited_s += min(took_s, LONGEST_PAUSE_S)
                self.pause(failure, pauses, limit_s, say)
                pauses += 1
                is_repeated = True

    def pause(self, failure: RootstockError, number: int, limit_s: float, say: Callable[[str], None]) -> None:
        """Wait before the next attempt.

        Args:
            failure: of the last attempt.
            number: the pauses before this one.
            limit_s, say: see `outlast`.

        Raises:
            RootstockError: the failure, if the time for pauses is used up.
        """
        left_s = limit_s - self.waited_s
        if left_s <= 0:
            raise _given_up(failure, self.waited_s) from None
        pause_s = min(FIRST_PAUSE_S * 2**number, LONGEST_PAUSE_S) * random.uniform(_LEAST_SHARE, 1)  # noqa: S311 - no secret
        pause_s = min(pause_s, left_s)
        say(
            f"{_words(failure)}\nThe next attempt is in {duration(pause_s)}. This run may wait "
            f"{duration(limit_s)} in all (run.outage_limit_s); {duration(left_s)} are left. Finished work is kept."
        )
        self._sleep(pause_s)
        self.waited_s += pause_s


def _remedy(failure: RootstockError) -> Remedy:
    if isinstance(failure, StageFailed):
        return failure.remedy
    return Remedy.WAIT if isinstance(failure, TransientError) else Remedy.FIX


def _words(failure: RootstockError) -> str:
    """What doesn't answer: without the command that repeats the stage, because that happens anyway."""
    if isinstance(failure, StageFailed):
        return "\n".join(filter(None, (f"Stage {failure.stage}: {failure.reason}.", failure.said)))
    return str(failure)


def _given_up(failure: RootstockError, waited_s: float) -> RootstockError:
    waited = f"this run has waited {duration(waited_s)} for outages, and run.outage_limit_s allows no more"
    if not waited_s:
        return failure
    if isinstance(failure, StageFailed):
        reason = f"{failure.reason}; {waited}"
        return StageFailed(failure.stage, reason, failure.said, failure.command, failure.remedy)
    return TransientError(f"{failure} ({waited[0].upper()}{waited[1:]}.)")
