"""A run waits for what doesn't answer: with growing pauses, in words, and only for so long in all."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from tasks.errors import RootstockError, SourceError, TransientError
from tasks.runs.outages import FIRST_PAUSE_S, LONGEST_PAUSE_S, Outages, tells_of_outage
from tasks.runs.stage_failure import Remedy, StageFailed

NOTHING_ANSWERS = TransientError("store:8333 can't be reached.")
CRASH = StageFailed("prepare", "it crashed", "", "dvc repro", Remedy.RETRY)


class Clock:
    """Time that passes only where something waits or works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)

    def outages(self) -> Outages:
        return Outages(self.sleep, self)


def failing(failure: RootstockError, times: int) -> Callable[[], str]:
    """Something that fails so many times before it works."""
    count = itertools.count()

    def act() -> str:
        if next(count) < times:
            raise failure
        return "done"

    return act


def test_pauses_grow_up_to_the_longest_and_differ_by_chance() -> None:
    clock = Clock()
    assert clock.outages().outlast(failing(NOTHING_ANSWERS, 12), 1e6, print) == "done"
    assert len(clock.pauses) == 12
    for number, pause in enumerate(clock.pauses):
        longest = min(FIRST_PAUSE_S * 2**number, LONGEST_PAUSE_S)
        assert 0.75 * longest <= pause <= longest
    assert len(set(clock.pauses)) == 12


def test_pauses_are_short_again_after_long_work() -> None:
    clock = Clock()
    fail = failing(NOTHING_ANSWERS, 9)

    def act() -> str:
        clock.now += 2 * LONGEST_PAUSE_S
        return fail()

    clock.outages().outlast(act, 1e6, print)
    assert max(clock.pauses) <= FIRST_PAUSE_S


def test_attempts_in_vain_count_as_waiting_but_no_more_than_the_longest_pause() -> None:
    """DVC, say, tries every file again for a while before it fails: a run must not wait for days by attempts alone."""
    clock = Clock()
    fail = failing(NOTHING_ANSWERS, 1000)
    attempts: list[float] = []

    def act() -> str:
        attempts.append(clock.now)
        clock.now += 10 * LONGEST_PAUSE_S
        return fail()

    with pytest.raises(TransientError):
        clock.outages().outlast(act, 7200, print)
    assert 7200 / (LONGEST_PAUSE_S + FIRST_PAUSE_S) < len(attempts) - 1 < 7200 / LONGEST_PAUSE_S + 1


def test_limit_is_for_the_whole_run_and_the_last_failure_says_so() -> None:
    clock = Clock()
    outages = clock.outages()
    outages.outlast(failing(NOTHING_ANSWERS, 3), 100, print)
    with pytest.raises(
        TransientError, match=r"^store:8333 can't be reached.*has waited 2.min .* run\.outage_limit_s"
    ) as told:
        outages.outlast(failing(NOTHING_ANSWERS, 1000), 100, print)
    assert sum(clock.pauses) == pytest.approx(100)
    assert told.value.exit_code == 75
    with pytest.raises(StageFailed, match=r"^stage prepare failed: S3 is down; this run has waited"):
        outages.outlast(failing(StageFailed("prepare", "S3 is down", "", "dvc", Remedy.WAIT), 1), 100, print)


@pytest.mark.parametrize("failure", [SourceError("no such bucket"), CRASH, NOTHING_ANSWERS])
def test_nothing_waits_without_time_to_wait_or_where_no_pause_helps(failure: RootstockError) -> None:
    clock = Clock()
    limit_s = 0 if failure is NOTHING_ANSWERS else 100
    with pytest.raises(RootstockError) as raised:
        clock.outages().outlast(failing(failure, 1), limit_s, print)
    assert (raised.value, clock.pauses) == (failure, [])


def test_failure_of_an_unknown_kind_is_tried_again_a_few_times() -> None:
    clock = Clock()
    assert clock.outages().outlast(failing(CRASH, 2), 100, print, tries=3) == "done"
    with pytest.raises(StageFailed, match="it crashed"):
        clock.outages().outlast(failing(CRASH, 3), 100, print, tries=3)
    assert len(clock.pauses) == 4


def test_person_is_told_what_does_not_answer_when_it_is_tried_again_and_how_long_the_run_waits() -> None:
    said: list[str] = []
    failure = StageFailed("ingest", "something outside doesn't answer", str(NOTHING_ANSWERS), "dvc", Remedy.WAIT)
    Clock().outages().outlast(failing(failure, 1), 7200, said.append)
    (text,) = said
    for part in ("Stage ingest", "store:8333 can't be reached.", "The next attempt is in", "run.outage_limit_s"):
        assert part in text
    assert "2 h 00 min are left" in text.replace("\u00a0", " ").replace("120 min", "2 h 00 min")


@pytest.mark.parametrize(
    "said",
    [
        "error: RPC failed; HTTP 503 curl 22 The requested URL returned error: 503",
        "fetch-pack: unexpected disconnect while reading sideband packet\nfatal: early EOF",
        "ssh: connect to host git.example.org port 22: Connection timed out",
        "ssh: Could not resolve hostname git.example.org: Temporary failure in name resolution",
        "fatal: unable to access 'https://git.example.org/': Operation too slow. Less than 1000 bytes/sec",
    ],
)
def test_messages_of_git_about_a_network_mean_that_waiting_helps(said: str) -> None:
    assert tells_of_outage(said)


@pytest.mark.parametrize(
    "said",
    [
        "git@github.com: Permission denied (publickey).\nfatal: Could not read from remote repository.",
        "fatal: Authentication failed for 'https://git.example.org/'",
        "The requested URL returned error: 403",
        "fatal: '/srv/r.git' does not appear to be a git repository",
    ],
)
def test_messages_of_git_about_a_mistake_do_not(said: str) -> None:
    assert not tells_of_outage(said)
