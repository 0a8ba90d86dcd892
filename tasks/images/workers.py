"""Decodes on all cores: images are sent to worker processes, some at a time, and come back in order.

If the decoder crashes or hangs, only the image that caused it is refused: all images in the workers are decoded again,
one at a time in a new worker, and an image that fails there too is refused.
"""

from __future__ import annotations

import base64
import math
import os
import resource
import signal
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from threading import Lock, Thread
from types import ModuleType
from typing import Any

import numpy as np

from tasks.errors import IntegrityError
from tasks.images import perceptual_hash, quality
from tasks.images.decoding import ImageFacts, ImagePolicy, Pixels, decode
from tasks.images.image_size import IMAGE_SIZE_PX
from tasks.images.packs import PackEntry, read_image
from tasks.images.reason_codes import RefusalCode, Refused
from tasks.parallel import in_order, usable_cores

Result = tuple[Pixels, ImageFacts] | Refused
_Unreadable = IntegrityError | OSError
_Decoded = list[Result | ImageFacts | _Unreadable]
"""The results of a message; only the facts if the pixels are in the message's slot."""

_IMAGE = (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3)

_AT_ONCE = 8
"""Images in a message: if each were sent alone, that would cost as much as describing it."""

_WAITING, _WAITING_PER_WORKER = 32, 3
"""How many messages of decoded images (1.2 MB each) may wait, in all or for each worker, whichever is more. This bounds
the memory and keeps the workers busy while a shard is written. Each message has a slot for its pixels in shared memory:
sending the pixels would cost as much as a tenth of the decoding."""

TIME_LIMIT_S = 60
"""An image of 100 million pixels takes two seconds."""

MEMORY_LIMIT_MB = 4096
"""Memory that a worker may use beyond its own size (Linux). An image of 100 million pixels takes up to 2,000 MB."""


@dataclass(frozen=True)
class _Job:
    images: tuple[tuple[str, PackEntry | bytes], ...]
    policy: ImagePolicy
    background_rgb: tuple[int, int, int]
    time_limit_s: int
    describe: bool
    slot: int | None = None
    """The slot for the pixels in shared memory; None to send them."""


_slots: Pixels | None = None
"""In a worker: the shared memory (slots, images in a message, 224, 224, 3)."""


def decode_all(
    work: Iterable[tuple[str, PackEntry]],
    policy: ImagePolicy,
    background_rgb: tuple[int, int, int],
    time_limit_s: int = TIME_LIMIT_S,
    describe: bool = False,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
) -> Iterator[tuple[str, Result]]:
    """Decode images from their packs, in order. Refused images yield Refused; damaged packs raise IntegrityError."""
    workers = usable_cores()
    ahead = max(_WAITING, workers * _WAITING_PER_WORKER)
    shape = (ahead, _AT_ONCE, *_IMAGE)
    memory = _context().RawArray("B", math.prod(shape))
    slots = np.frombuffer(memory, np.uint8).reshape(shape)
    pool, single = _Pool(workers, memory_limit_mb, memory), _SingleWorker(memory_limit_mb)

    def begin() -> Iterator[tuple[_Job, Future[_Decoded]]]:
        nonlocal pool
        for number, images in enumerate(_several(work)):
            job = _Job(images, policy, background_rgb, time_limit_s, describe, slot=number % ahead)
            try:
                future = pool.submit(job)
            except BrokenProcessPool:
                pool.shutdown()  # waits until no worker can write into the slots
                pool = _Pool(workers, memory_limit_mb, memory)
                future = pool.submit(job)
            yield job, future

    try:
        for job, future in in_order(begin(), ahead):
            yield from _fetch(job, future, slots, single)
    finally:
        pool.shutdown()
        single.shutdown()


def _several(work: Iterable[tuple[str, PackEntry]]) -> Iterator[tuple[tuple[str, PackEntry], ...]]:
    images = iter(work)
    while several := tuple(islice(images, _AT_ONCE)):
        yield several


def _context() -> ForkServerContext | SpawnContext:
    return get_context("forkserver") if os.name == "posix" else get_context("spawn")


class _Pool:
    """Worker processes that import this module, but not the main program, which would take each half a second."""

    def __init__(self, workers: int, memory_limit_mb: int, memory: Any = None) -> None:
        context = _context()
        if os.name == "posix":
            context.set_forkserver_preload([__name__])  # once, instead of in every worker
        self._executor = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_prepare_worker, initargs=(memory_limit_mb, memory)
        )

    def submit(self, job: _Job) -> Future[_Decoded]:
        """Submit a job; a new worker starts if none is idle."""
        program = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # a new worker imports this module
        try:
            return self._executor.submit(_decode, job)
        finally:
            sys.modules["__main__"] = program

    def shutdown(self) -> None:
        self._executor.shutdown(cancel_futures=True)


def _prepare_worker(memory_limit_mb: int, memory: Any) -> None:
    global _slots
    if memory is not None:
        _slots = np.frombuffer(memory, np.uint8).reshape(-1, _AT_ONCE, *_IMAGE)
    _set_limits(memory_limit_mb)


def _set_limits(memory_limit_mb: int) -> None:
    """Bound the worker's memory, and end it when its stage is killed: otherwise it would wait for work forever."""
    if sys.platform == "linux":
        # Limit the data, not the address space: OpenBLAS reserves gigabytes of address space that it never uses.
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        limit = pages * resource.getpagesize() + memory_limit_mb * 1_000_000
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    parent = parent_process()
    if parent:
        Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _fetch(job: _Job, future: Future[_Decoded], slots: Pixels, single: _SingleWorker) -> Iterator[tuple[str, Result]]:
    try:
        results = future.result()
    except BrokenProcessPool:  # caused by one of these images, or by one that was decoded at the same time
        for image in job.images:
            yield image[0], single.decode(replace(job, images=(image,), slot=None))
    else:
        for place, ((key, _), result) in enumerate(zip(job.images, results, strict=False)):
            if isinstance(result, _Unreadable):
                raise result
            yield key, (slots[job.slot, place].copy(), result) if isinstance(result, ImageFacts) else result


class _SingleWorker:
    """A worker that decodes one image at a time, so that it is known which image kills it."""

    def __init__(self, memory_limit_mb: int) -> None:
        self._memory_limit_mb = memory_limit_mb
        self._pool: _Pool | None = None

    def decode(self, job: _Job) -> Result:
        self._pool = self._pool or _Pool(1, self._memory_limit_mb)
        try:
            [result] = self._pool.submit(job).result()
        except BrokenProcessPool:
            self.shutdown()
            return Refused(RefusalCode.DECODER_FAILED, f"the decoder crashed, or took longer than {job.time_limit_s} s")
        if isinstance(result, _Unreadable):
            raise result
        assert not isinstance(result, ImageFacts)  # there is no slot
        return result

    def shutdown(self) -> None:
        if self._pool:
            self._pool.shutdown()
        self._pool = None


class Decoders:
    """Worker processes that decode one image at a time, for a server; many threads may call `decode`.

    Args:
        workers: processes.
        time_limit_s: for an image.
        memory_limit_mb: that a worker may use beyond its own size.
    """

    def __init__(self, workers: int, time_limit_s: int, memory_limit_mb: int = MEMORY_LIMIT_MB) -> None:
        self._workers, self._time_limit_s, self._memory_limit_mb = workers, time_limit_s, memory_limit_mb
        self._pool, self._single = _Pool(workers, memory_limit_mb), _SingleWorker(memory_limit_mb)
        self._pool_lock, self._single_lock = Lock(), Lock()

    def decode(self, data: bytes, policy: ImagePolicy, background_rgb: tuple[int, int, int]) -> Result:
        """As `decoding.decode`, in a worker; an image that crashes it, or takes too long, is refused."""
        job = _Job((("", data),), policy, background_rgb, self._time_limit_s, describe=False)
        try:
            with self._pool_lock:
                pool = self._pool
                future = pool.submit(job)
            [result] = future.result()
        except BrokenProcessPool:  # by this image, or by another one
            with self._pool_lock:
                if self._pool is pool:
                    pool.shutdown()
                    self._pool = _Pool(self._workers, self._memory_limit_mb)
            with self._single_lock:
                return self._single.decode(job)
        assert isinstance(result, Refused | tuple)
        return result

    def shutdown(self) -> None:
        """End the workers."""
        self._pool.shutdown()
        self._single.shutdown()


def _decode(job: _Job) -> _Decoded:
    """The results up to the first image that can't be read, then the error."""
    results: _Decoded = []
    for key, place in job.images:
        try:
            result = _decode_one(job, key, place)
        except (IntegrityError, OSError) as error:
            return [*results, error]
        if _slots is not None and job.slot is not None and not isinstance(result, Refused):
            _slots[job.slot, len(results)] = result[0]
            results.append(result[1])
        else:
            results.append(result)
    return results


def _decode_one(job: _Job, key: str, place: PackEntry | bytes) -> Result:
    if hasattr(signal, "alarm"):
        signal.alarm(job.time_limit_s)  # ends the process, even inside a library call
    try:
        data = place if isinstance(place, bytes) else read_image(place, key)
        pixels, facts = decode(data, job.policy, job.background_rgb)
    except Refused as refused:
        return refused
    except MemoryError:
        return Refused(RefusalCode.DECODER_FAILED, "decoding takes more memory than allowed")
    finally:
        if hasattr(signal, "alarm"):
            signal.alarm(0)
    return pixels, describe_pixels(pixels, facts) if job.describe else facts


def describe_pixels(pixels: Pixels, facts: ImageFacts) -> ImageFacts:
    """The facts with the perceptual hash, the thumbnail, the digest of the pixels and the quality scores."""
    return replace(
        facts,
        look=base64.b64encode(perceptual_hash.hash_and_thumbnail(pixels)).decode(),
        pixels=perceptual_hash.pixel_digest(pixels),
        scores=quality.scores(pixels),
    )
