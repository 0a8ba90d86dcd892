"""The cores of this machine, and work side by side in a known order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
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


def in_order(begun: Iterable[Found], ahead: int) -> Iterator[Found]:
    """What `begun` gives, in order, while up to `ahead` of it are under way: so bounded is the memory.

    Args:
        begun: begins another piece of work each time that it is asked, such as by submitting it to a pool, and gives
            its future. It is asked again only when the caller is done with the oldest.
        ahead: pieces of work that are begun and not yet given, 1 or more.
    """
    source = iter(begun)
    waiting = deque(islice(source, ahead))
    while waiting:
        yield waiting.popleft()
        waiting.extend(islice(source, 1))
