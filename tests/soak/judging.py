"""What the nights came to: which were disturbed, which failed for no fault, which promises were broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.soak.plan import PERSON
from tests.soak.record import Fault, Night, Sample

_CONFUSED_S = 420.0
SETTLE_S = 20.0
"""Until a killed service runs again, a night is still disturbed."""
GOOD = "COMPLETED"
_OPEN = ("RUNNING", "PENDING", "CANCELLING", "PAUSED")


@dataclass(frozen=True)
class Soak:
    """All that a soak has found.

    Attributes:
        length_s: from the first night to the end of the checks.
        quiet: the nights after the last fault.
        problems: promise -> how it was broken; empty lists for those that were kept.
        figures: further figures for the report, in words.
    """

    seed: int
    commit: str
    length_s: float
    nights: Sequence[Night]
    quiet: Sequence[Night]
    faults: Sequence[Fault]
    samples: Sequence[Sample]
    problems: dict[str, list[str]]
    figures: dict[str, str] = field(default_factory=dict)

    @property
    def broken(self) -> bool:
        return any(self.problems.values())


def disturbing(night: Night, faults: Sequence[Fault]) -> list[Fault]:
    """The faults that may excuse a night's end: not those while it waited for its turn, nor a person's work beside."""
    began = night.due if night.taken is None else night.taken
    ended = night.ended or float("inf")
    return [
        one for one in faults if one.kind not in PERSON and one.began - 1 <= ended and one.ended + SETTLE_S >= began
    ]


def lost(nights: Sequence[Night], faults: Sequence[Fault]) -> list[str]:
    """Nights that failed although no fault hit them: an earlier one had left something that they couldn't heal."""
    return [
        f"{night.name} ended as {night.state} without a fault: {night.reason[:300]}"
        for night in nights
        if night.state not in (GOOD, *_OPEN) and not _waited_only(night) and not disturbing(night, faults)
    ]


def unaccounted(nights: Sequence[Night]) -> list[str]:
    """Nights without an end, and ends without a reason. Nights that still wait for their turn are fine."""
    found = [f"{night.name} is still {night.state}" for night in nights if night.state in _OPEN]
    return found + [
        f"{night.name} ended as {night.state} without a reason"
        for night in nights
        if night.state not in (GOOD, *_OPEN) and not _waited_only(night) and not night.reason
    ]


def not_quiet(quiet: Sequence[Night], wanted: int) -> list[str]:
    """Whether the nights after the last fault all went well."""
    good = sum(night.state == GOOD for night in quiet)
    found = [f"{night.name} ended as {night.state}: {night.reason[:300]}" for night in quiet if night.state != GOOD]
    return found + ([f"only {good} of {wanted} nights after the last fault completed"] if good < wanted else [])


def false_alarms(texts: Sequence[str], nights: Sequence[Night], confusing: Sequence[float]) -> list[str]:
    """Messages that tell of a lost or failed night which completed.

    Prefect takes events of a run for too early if the run was made, or the server started, less than 5 minutes before.

    Args:
        texts: of the messages.
        nights: all.
        confusing: when runs were made (by a deployment), or the server was started again; Unix times.
    """
    return [
        f"{night.name} completed, but: {text[:200]}"
        for night in nights
        for text in texts
        if night.state == GOOD
        and f" / {night.name} " in text
        and " is late" not in text
        and not any(moment - 60 < (night.ended or 0) < moment + _CONFUSED_S for moment in confusing)
    ]


def silent(texts: Sequence[str], nights: Sequence[Night]) -> list[Night]:
    """Nights that ended badly without a message."""
    bad = [night for night in nights if night.ended is not None and night.state != GOOD]
    return [night for night in bad if not any(f" / {night.name} " in text for text in texts)]


def _waited_only(night: Night) -> bool:
    """Whether it has only waited until now: for its turn, or for a worker."""
    return night.began is None and night.ended is None


def healed(nights: Sequence[Night]) -> list[Night]:
    return [night for night in nights if night.state == GOOD and night.healed]


def states(nights: Sequence[Night]) -> Counter[str]:
    return Counter("waiting" if _waited_only(night) else night.state.lower() for night in nights)


def kinds(faults: Sequence[Fault]) -> Counter[str]:
    return Counter(f"{one.kind}: {one.target}" for one in faults)
