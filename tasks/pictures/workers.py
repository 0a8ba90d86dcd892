"""Decoding on all cores: pictures go out to worker processes, some at a time, and come back in order.

A picture whose decoder crashes or hangs costs that picture only: what was under way is decoded again, each in a worker
of its own, and the one that fails there too is refused.
"""

from __future__ import annotations

import base64
import os
import resource
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread

from tasks.errors import IntegrityError
from tasks.pictures import likeness, quality
from tasks.pictures.decoding import Code, Facts, Pixels, Policy, Refused, decode
from tasks.pictures.packs import Place, read_picture

Result = tuple[Pixels, Facts] | Refused
_Unreadable = IntegrityError | OSError

_AT_ONCE = 8
"""Pictures a message: sending one by one costs as much as describing them."""

_WAITING, _WAITING_PER_WORKER = 32, 3
"""So many messages of decoded pictures (1.2 MB each) wait to be fetched, or so many for each worker if that is more:
it bounds the memory, and lets the workers go on while a shard is written."""

TIME_LIMIT_S = 60
"""A picture of 100 million pixels takes two seconds."""

MEMORY_LIMIT_MB = 4096
"""What a worker may take beyond its own size (Linux). A picture of 100 million pixels takes up to 2,000 MB."""


@dataclass(frozen=True)
class _Job:
    pictures: tuple[tuple[str, Place], ...]
    policy: Policy
    background_rgb: tuple[int, int, int]
    time_limit_s: int
    describe: bool


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_all(
    work: Iterable[tuple[str, Place]],
    policy: Policy,
    background_rgb: tuple[int, int, int],
    time_limit_s: int = TIME_LIMIT_S,
    describe: bool = False,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
) -> Iterator[tuple[str, Result]]:
    """Decode pictures from their packs, in order; a refusal is a result, damaged packs raise IntegrityError."""
    workers = usable_cores()
    ahead = max(_WAITING, workers * _WAITING_PER_WORKER)
    waiting: deque[tuple[_Job, Future[list[Result | _Unreadable]]]] = deque()
    pool, lonely = _start(workers, memory_limit_mb), _Lonely(memory_limit_mb)
    try:
        for pictures in _several(work):
            job = _Job(pictures, policy, background_rgb, time_limit_s, describe)
            try:
                future = pool.submit(_decode, job)
            except BrokenProcessPool:
                pool.shutdown()
                pool = _start(workers, memory_limit_mb)
                future = pool.submit(_decode, job)
            waiting.append((job, future))
            if len(waiting) >= ahead:
                yield from _fetch(*waiting.popleft(), lonely)
        while waiting:
            yield from _fetch(*waiting.popleft(), lonely)
    finally:
        pool.shutdown(cancel_futures=True)
        lonely.shutdown()


def _several(work: Iterable[tuple[str, Place]]) -> Iterator[tuple[tuple[str, Place], ...]]:
    pictures = iter(work)
    while several := tuple(islice(pictures, _AT_ONCE)):
        yield several


def _start(workers: int, memory_limit_mb: int) -> ProcessPoolExecutor:
    context = get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload([__name__])  # once, instead of in every worker
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_set_limits, initargs=(memory_limit_mb,))


def _set_limits(memory_limit_mb: int) -> None:
    """Bound the worker's memory, and let it not outlive a stage that was killed: it would wait for work for ever."""
    if sys.platform == "linux":
        # The data, not the address space: OpenBLAS reserves gigabytes of that for cores that it never uses.
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        limit = pages * resource.getpagesize() + memory_limit_mb * 1_000_000
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    parent = parent_process()
    if parent:
        Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _fetch(job: _Job, future: Future[list[Result | _Unreadable]], lonely: _Lonely) -> Iterator[tuple[str, Result]]:
    try:
        results = future.result()
    except BrokenProcessPool:  # the fault of one of these pictures, or of one that was decoded at the same time
        for picture in job.pictures:
            yield picture[0], lonely.decode(replace(job, pictures=(picture,)))
    else:
        for (key, _), result in zip(job.pictures, results, strict=False):
            if isinstance(result, _Unreadable):
                raise result
            yield key, result


class _Lonely:
    """One worker that gets one picture at a time, so that it is known which one it dies of."""

    def __init__(self, memory_limit_mb: int) -> None:
        self._memory_limit_mb = memory_limit_mb
        self._pool: ProcessPoolExecutor | None = None

    def decode(self, job: _Job) -> Result:
        self._pool = self._pool or _start(1, self._memory_limit_mb)
        try:
            [result] = self._pool.submit(_decode, job).result()
        except BrokenProcessPool:
            self.shutdown()
            return Refused(Code.DECODER_FAILED, f"the decoder crashed, or took longer than {job.time_limit_s} s")
        if isinstance(result, _Unreadable):
            raise result
        return result

    def shutdown(self) -> None:
        if self._pool:
            self._pool.shutdown()
        self._pool = None


def _decode(job: _Job) -> list[Result | _Unreadable]:
    """The results, up to the first picture that can't be read; what is wrong there comes last."""
    results: list[Result | _Unreadable] = []
    for key, place in job.pictures:
        try:
            results.append(_decode_one(job, key, place))
        except (IntegrityError, OSError) as error:
            return [*results, error]
    return results


def _decode_one(job: _Job, key: str, place: Place) -> Result:
    if hasattr(signal, "alarm"):
        signal.alarm(job.time_limit_s)  # ends the process, even inside a library that never looks up
    try:
        pixels, facts = decode(read_picture(place, key), job.policy, job.background_rgb)
    except Refused as refused:
        return refused
    except MemoryError:
        return Refused(Code.DECODER_FAILED, "decoding takes more memory than a picture may")
    finally:
        if hasattr(signal, "alarm"):
            signal.alarm(0)
    return pixels, describe_pixels(pixels, facts) if job.describe else facts


def describe_pixels(pixels: Pixels, facts: Facts) -> Facts:
    """The facts with what the picture looks like, and how good it is."""
    return replace(
        facts,
        look=base64.b64encode(likeness.look(pixels)).decode(),
        pixels=likeness.pixel_digest(pixels),
        scores=quality.scores(pixels),
    )
