"""The cores of this machine, and plain work for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Found = TypeVar("Found")


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_all_cores(work: Callable[[Given], Found], given: Iterable[Given]) -> list[Found]:
    """The results, in order, of work that needs no lock of Python's, such as checksums of files."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(work, given))
