"""Reading items ahead, by several threads, in order: downloads overlap, and the memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tasks.cores import in_order
from tasks.errors import SourceError
from tasks.images.sources.listing import SourceImage

_AHEAD_PER_READER = 2


def read_ahead(items: Iterable[SourceImage], readers: int) -> Iterator[tuple[SourceImage, bytes]]:
    """The items with their bytes, in their order; at most a few of each reader wait in memory.

    Raises:
        SourceError: an item can't be read; names it.
    """
    pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
    try:
        begun = ((item, pool.submit(_read, item)) for item in items)
        for item, future in in_order(begun, readers * _AHEAD_PER_READER):
            yield item, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(item: SourceImage) -> bytes:
    try:
        return item.read()
    except OSError as error:
        raise SourceError(
            f"{item.path} can't be read: {error.strerror or error}. Fix or remove it at the source."
        ) from None
