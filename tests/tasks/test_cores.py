"""Cores: how many, and work on all of them in order."""

from __future__ import annotations

import os
import threading

import pytest

from tasks.cores import on_all_cores, usable_cores


def test_usable_cores_are_those_that_the_process_may_use() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_results_come_in_the_order_of_what_was_given() -> None:
    late = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            late.wait(0.05)
        return number * number

    assert on_all_cores(work, range(50)) == [number * number for number in range(50)]
    assert on_all_cores(work, []) == []


def test_failure_of_one_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        on_all_cores(lambda number: 1 // number, [1, 0])
