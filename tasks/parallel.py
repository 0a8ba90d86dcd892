"""The cores of this machine, and parallel work with results in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Found = TypeVar("Found")


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_all_cores(work: Callable[[Given], Found], given: Iterable[Given]) -> list[Found]:
    """The results of `work`, in order, computed by threads. Good for work that releases the GIL, such as checksums."""
    pieces = list(given)
    if len(pieces) < 2:
        return [work(piece) for piece in pieces]
    with ThreadPoolExecutor(min(usable_cores(), len(pieces))) as pool:
        return list(pool.map(work, pieces))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """In the block, or the decorated function, NumPy multiplies matrices with one thread, in the whole process.

    With several threads the last bits of a product depend on their number. They also wait for each other by spinning,
    which takes more time than the work if matrices are small, or if other programs use the cores.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield


def in_order(begun: Iterable[Found], ahead: int) -> Iterator[Found]:
    """Yield what `begun` yields, in order, with at most `ahead` of them waiting, which bounds the memory.

    Args:
        begun: each `next` begins another piece of work, for example submits it to a pool, and yields its future. The
            next piece begins only when the caller is done with the oldest one.
        ahead: pieces of work that are begun and not yet yielded, 1 or more.
    """
    source = iter(begun)
    waiting = deque(islice(source, ahead))
    while waiting:
        yield waiting.popleft()
        waiting.extend(islice(source, 1))
