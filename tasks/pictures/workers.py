"""Decoding on all cores: pictures go out to worker processes and come back in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

from tasks.pictures.decoding import Facts, Pixels, Policy, Refused, decode
from tasks.pictures.packs import Place, read_picture

Result = tuple[Pixels, Facts] | Refused

_WAITING_PER_WORKER = 16
"""Bounds the memory: at most so many decoded pictures (150 KB each) wait to be fetched."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_all(
    work: Iterable[tuple[str, Place]], policy: Policy, background_rgb: tuple[int, int, int]
) -> Iterator[tuple[str, Result]]:
    """Decode pictures from their packs, in order; a refusal is a result, damaged packs raise IntegrityError."""
    workers = usable_cores()
    context = get_context("forkserver" if os.name == "posix" else "spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: deque[tuple[str, Future[Result]]] = deque()
        try:
            for key, place in work:
                waiting.append((key, pool.submit(_decode, key, place, policy, background_rgb)))
                if len(waiting) >= workers * _WAITING_PER_WORKER:
                    key, future = waiting.popleft()
                    yield key, future.result()
            while waiting:
                key, future = waiting.popleft()
                yield key, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(key: str, place: Place, policy: Policy, background_rgb: tuple[int, int, int]) -> Result:
    try:
        return decode(read_picture(place, key), policy, background_rgb)
    except Refused as refused:
        return refused
