"""The random plan of a soak: what happens when. The same seed gives the same plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tests.soak import s3_faults
from tests.soak.torn import TEARS

SIGNALS = ("kill -9", "SIGTERM", "SIGSTOP")
PERSON = ("commit beside", "edits beside", "git gc beside", "deployment of a new commit")
ROLES = ("engine", "guard", "dvc", "stage", "late stage", "git", "worker", "server")
_WEIGHTS = {
    "kill -9": 5.0,
    "SIGTERM": 2.0,
    "SIGSTOP": 2.0,
    "power failure": 4.0,
    "full disk": 2.0,
    **dict.fromkeys(s3_faults.KINDS, 1.0),
    **dict.fromkeys(PERSON, 0.6),
}
"""How often each kind comes, relative to the others."""


@dataclass(frozen=True)
class Event:
    """Something that is to happen.

    Attributes:
        at_s: seconds after the beginning of the nights.
        kind: a key of the weights, or `source`: the images change.
        target: role of a process, or a file; empty where the kind says all.
        lasts_s: seconds until it is undone, for what has a duration.
        delay_s: seconds that it waits after its target has appeared.
    """

    at_s: float
    kind: str
    target: str
    lasts_s: float
    delay_s: float


def events(random: Random, length_s: float, pause_s: float) -> list[Event]:
    """Faults with random pauses of `pause_s` on average, and changes of the source about every minute."""
    faults = [_fault(random, at_s) for at_s in _times(random, length_s, pause_s)]
    changes = [Event(at_s, "source", "", 0, 0) for at_s in _times(random, length_s, 60)]
    return sorted([*faults, *changes], key=lambda event: event.at_s)


def _times(random: Random, length_s: float, pause_s: float) -> Iterator[float]:
    at_s = random.expovariate(1 / pause_s)
    while at_s < length_s:
        yield at_s
        at_s += random.expovariate(1 / pause_s)


def _fault(random: Random, at_s: float) -> Event:
    kind = random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    target = ""
    if kind in SIGNALS:
        target = random.choice(ROLES)
    elif kind == "power failure":
        target = random.choice(sorted(TEARS))
    # A process that stands still for over 100 seconds counts as lost; that is a case of its own, and seldom.
    long = kind == "SIGSTOP" and random.random() < 0.1
    lasts_s = random.uniform(110, 150) if long else random.uniform(5, 45)
    whole_night = target == "engine" or kind == "power failure"
    delay_s = random.uniform(0, 40) if whole_night else random.choice((0.0, random.uniform(0, 4)))
    return Event(at_s, kind, target, lasts_s, delay_s)
