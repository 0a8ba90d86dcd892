"""Cores: how many, and work on all of them in order."""

from __future__ import annotations

import os
import threading

import pytest

from tasks.cores import on_all_cores, usable_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds a process to cores")
def test_usable_cores_are_those_that_the_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert usable_cores() == len(allowed)


def test_results_come_in_the_order_of_what_was_given() -> None:
    late = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            late.wait(5)  # in vain where there is one core
        if number == 1:
            late.set()
        return number * number

    assert on_all_cores(work, range(50)) == [number * number for number in range(50)]
    assert on_all_cores(work, []) == []


def test_failure_of_one_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        on_all_cores(lambda number: 1 // number, [1, 0])
