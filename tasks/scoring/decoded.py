"""The images of a source on their way to the network: read ahead, and decoded in worker processes, in order.

The bytes wait in files, not in memory: so it doesn't matter how large the images are.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tasks.files import sha256_hex
from tasks.images.decoding import ImagePolicy, Pixels
from tasks.images.packs import PackEntry
from tasks.images.reason_codes import Refused
from tasks.images.sources.listing import SourceImage
from tasks.images.sources.reading import read_ahead
from tasks.images.workers import decode_all

_FILE_BYTES = 64 << 20


class Decoded(NamedTuple):
    """An image with its pixels, or with the reason why there are none.

    Attributes:
        sha256: of the original bytes; None if they can't be read, or begin like no image.
    """

    path: str
    sha256: str | None
    content: Pixels | Refused


class _Waiting(NamedTuple):
    path: str
    sha256: str | None
    place: PackEntry | None
    refused: Refused | None


class Spool:
    """Files of original bytes that wait to be decoded; each is removed once all of its images are.

    Args:
        folder: of its own; what a killed process left in it is removed.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder, self._number = folder, 0
        self._file: BinaryIO | None = None
        self._waiting: dict[Path, int] = {}

    def add(self, data: bytes) -> PackEntry:
        """Write the bytes of an image."""
        if self._file is None:
            self._number += 1
            self._file = (self._folder / str(self._number)).open("wb", buffering=0)
        path, offset = Path(self._file.name), self._file.tell()
        self._file.write(data)
        self._waiting[path] = self._waiting.get(path, 0) + 1
        if self._file.tell() >= _FILE_BYTES:
            self._file.close()
            self._file = None
        return PackEntry(path, offset, len(data))

    def remove(self, place: PackEntry) -> None:
        """Forget the bytes of an image."""
        self._waiting[place.pack] -= 1
        is_open = self._file is not None and self._file.name == str(place.pack)
        if self._waiting[place.pack] == 0 and not is_open:
            del self._waiting[place.pack]
            place.pack.unlink()

    def close(self) -> None:
        """Remove the folder."""
        if self._file is not None:
            self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def decode_source(
    images: Iterable[SourceImage],
    readers: int,
    policy: ImagePolicy,
    background_rgb: tuple[int, int, int],
    spool: Spool,
) -> Iterator[Decoded]:
    """Read and decode images; yields one for each, in order.

    Args:
        images: of one source.
        readers: images that are read at the same time.
        policy: limits of what is decoded.
        background_rgb: what shows through transparent pixels.
        spool: for the bytes.

    Raises:
        TransientError: the source doesn't answer.
        SourceError: the source as a whole can't be read any more.
    """
    begun: deque[_Waiting] = deque()

    def work() -> Iterator[tuple[str, PackEntry]]:
        for image, data in read_ahead(images, readers, refuse_unreadable=True):
            if isinstance(data, Refused):
                begun.append(_Waiting(image.path, None, None, data))
            else:
                one = _Waiting(image.path, sha256_hex(data), spool.add(data), None)
                begun.append(one)
                assert one.sha256
                assert one.place
                yield one.sha256, one.place

    for _, result in decode_all(work(), policy, background_rgb):
        yield from _refused(begun)
        one = begun.popleft()
        assert one.place
        spool.remove(one.place)
        yield Decoded(one.path, one.sha256, result if isinstance(result, Refused) else result[0])
    yield from _refused(begun)


def _refused(begun: deque[_Waiting]) -> Iterator[Decoded]:
    """Remove and yield the refused images at the front; they never went to a worker."""
    while begun and (refused := begun[0].refused):
        yield Decoded(begun.popleft().path, None, refused)
