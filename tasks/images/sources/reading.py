"""Reads images ahead with several threads, in order: downloads overlap, and the memory stays bounded."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from tasks.errors import SourceError, TransientError
from tasks.images.reason_codes import DamagedAtSourceError, ForbiddenError, RefusalCode, Refused, SourceChangedError
from tasks.images.signatures import HEAD_BYTES, judge_head
from tasks.images.sources.listing import SourceImage

LARGE_BYTES = 8 << 20
"""The first bytes of a larger file are read before the rest. Of a smaller one, that would cost more than it saves."""

_AHEAD_PER_READER = 2
_AHEAD_BYTES = 256 << 20
_NO_ANSWER = {
    errno.ECONNABORTED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
"""Errors of file systems behind a network. EIO is not here: a damaged disk gives it too, and no pause helps there."""


def read_ahead(
    images: Iterable[SourceImage], readers: int, refuse_unreadable: bool = False
) -> Iterator[tuple[SourceImage, bytes | Refused]]:
    """Yield the images with their bytes, in order, or with the refusal of what can't be read as an image.

    That is what is no image by its first bytes, what changed or disappeared after it was listed, what is damaged at the
    source, and, with `refuse_unreadable`, what this user may not read or a broken disk doesn't give. For each reader,
    at most a few images wait in memory, and in all at most 256 MiB or one image, whichever is more.

    Raises:
        SourceError: an image can't be read; the message names it.
        TransientError: the source doesn't answer.
    """
    pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
    waiting: deque[tuple[SourceImage, Future[bytes | Refused]]] = deque()
    size = 0
    try:
        for image in images:
            while waiting and (len(waiting) >= readers * _AHEAD_PER_READER or size + image.size_bytes > _AHEAD_BYTES):
                first, future = waiting.popleft()
                size -= first.size_bytes
                yield first, future.result()
            waiting.append((image, pool.submit(_read, image, refuse_unreadable)))
            size += image.size_bytes
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(image: SourceImage, refuse_unreadable: bool) -> bytes | Refused:
    try:
        head = image.read_head() if image.size_bytes > LARGE_BYTES else None
        if head is not None and (refused := _refuse(head)):
            return refused
        data = image.read()
    except SourceChangedError as error:
        return Refused(error.code, str(error))
    except DamagedAtSourceError as error:
        return Refused(RefusalCode.DAMAGED_AT_SOURCE, str(error))
    except ForbiddenError as error:
        if refuse_unreadable:
            return Refused(RefusalCode.UNREADABLE, str(error))
        raise
    except (FileNotFoundError, NotADirectoryError):
        return Refused(RefusalCode.GONE, "it was removed after the source was listed")
    except OSError as error:
        told = f"{image.path} can't be read: {error.strerror or error}."
        if error.errno in _NO_ANSWER:
            raise TransientError(f"{told} The file system at the other end of the network doesn't answer.") from None
        if refuse_unreadable:
            return Refused(RefusalCode.UNREADABLE, error.strerror or type(error).__name__)
        raise SourceError(f"{told} Fix or remove it at the source.") from None
    return _refuse(data[:HEAD_BYTES]) or data


def _refuse(head: bytes) -> Refused | None:
    """The refusal of what is no image. Unsupported formats of images are kept: a later version may decode them."""
    refused = judge_head(head)
    return refused if refused and refused.code == RefusalCode.NOT_AN_IMAGE else None
