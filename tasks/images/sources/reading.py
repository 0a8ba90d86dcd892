"""Reads images ahead with several threads, in order: downloads overlap, and the memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tasks.errors import SourceError
from tasks.images.sources.listing import SourceImage
from tasks.parallel import in_order

_AHEAD_PER_READER = 2


def read_ahead(images: Iterable[SourceImage], readers: int) -> Iterator[tuple[SourceImage, bytes]]:
    """Yield the images with their bytes, in order; for each reader, at most a few images wait in memory.

    Raises:
        SourceError: an image can't be read; the message names it.
    """
    pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
    try:
        begun = ((image, pool.submit(_read, image)) for image in images)
        for image, future in in_order(begun, readers * _AHEAD_PER_READER):
            yield image, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(image: SourceImage) -> bytes:
    try:
        return image.read()
    except OSError as error:
        raise SourceError(
            f"{image.path} can't be read: {error.strerror or error}. Fix or remove it at the source."
        ) from None
