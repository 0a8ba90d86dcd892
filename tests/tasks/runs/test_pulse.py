"""Silence is measured on the own clock, from what was heard last."""

from __future__ import annotations

from tasks.runs.pulse import Pulse


def test_silence_counts_from_what_was_new_last() -> None:
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    heard = []
    for now[0], said in ((5.0, "a"), (15.0, "a"), (16.0, "b"), (26.0, "b"), (27.0, "b")):
        heard.append(pulse.is_lost(said, 10))
    assert heard == [False, False, False, False, True]


def test_forgiven_silence_does_not_count() -> None:
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    pulse.is_lost("a", 10)
    now[0] = 100.0
    pulse.forgive()
    assert not pulse.is_lost("a", 10)
