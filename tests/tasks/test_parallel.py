"""Cores: how many there are, and work in order on all of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from tasks.parallel import in_order, on_all_cores, usable_cores


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


@pytest.mark.parametrize("ahead", [1, 3, 9])
def test_work_in_order_is_begun_so_far_ahead_and_no_further(ahead: int) -> None:
    begun: list[int] = []

    def begin() -> Iterator[int]:
        for number in range(7):
            begun.append(number)
            yield number

    for done, number in enumerate(in_order(begin(), ahead)):
        assert number == done
        assert len(begun) == min(7, done + ahead)
    assert len(begun) == 7
    assert list(in_order([], ahead)) == []
