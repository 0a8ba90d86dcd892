"""Tar archives: headers are listed in one pass, members are read by their offset. A compressed tar is unpacked once.

The unpacked tar is a temporary file; nothing is ever written under a member's name. Memory is bounded: bytes are copied
in chunks, and no header may be longer than 64 KiB (the standard library would read a name of any length).
"""

from __future__ import annotations

import functools
import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from tasks.errors import SourceError, StorageError
from tasks.files import atomic_file
from tasks.images.signatures import HEAD_BYTES
from tasks.images.sources.archive.members import ArchiveMember, damaged, safe_name
from tasks.images.sources.listing import SourceImage
from tasks.images.sources.policy import SourcePolicy
from tasks.images.sources.random_access_file import RandomAccessFile

_CHUNK = 1 << 20
_BLOCK = 512
_SPARE_BYTES = 256 << 20  # stays free on the disk
_CHUNKS_BETWEEN_LOOKS = 64
_FAILURES = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError, zlib.error, gzip.BadGzipFile)


class _TarHeaders:
    """A file for tarfile to read headers from; it refuses to read much at once."""

    def __init__(self, held: RandomAccessFile, max_bytes: int) -> None:
        self._held, self._max_bytes, self._position = held, max_bytes, 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._max_bytes:
            raise tarfile.ReadError(f"a header of {size} bytes")
        data = self._held.read(self._position, size)
        self._position += len(data)
        return data

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or position < 0:
            raise tarfile.ReadError("an offset before the beginning")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position


class Tar:
    """A plain tar; `shown` is its name in messages. The place of an image is the offset of its bytes."""

    def __init__(self, path: Path, shown: str) -> None:
        self._held, self._shown = RandomAccessFile(path), shown

    def members(self, policy: SourcePolicy) -> Iterator[ArchiveMember]:
        """Every member except folders.

        Raises:
            SourceError: a header is wrong, or the end mark is missing, so members may be missing.
        """
        try:
            for info in _entries(self._held, policy.max_header_bytes):
                if not info.isdir():
                    name, unsafe = safe_name(info.name)
                    yield ArchiveMember(name, info.offset_data, info.size, unsafe or _reason(info, policy))
        except _FAILURES as error:
            raise damaged(self._shown, error) from None

    def read(self, image: SourceImage) -> bytes:
        """The bytes of an image; a SourceError if the file is shorter now."""
        return self._read(image.place, image.size_bytes)

    def read_head(self, image: SourceImage) -> bytes:
        """The first bytes of an image; a SourceError if the file is shorter now."""
        return self._read(image.place, min(image.size_bytes, HEAD_BYTES))

    def _read(self, offset: int, size: int) -> bytes:
        data = self._held.read(offset, size)
        if len(data) != size:
            raise damaged(self._shown, f"it was {self._held.size} bytes long and is shorter now")
        return data


def _entries(held: RandomAccessFile, max_header_bytes: int) -> Iterator[tarfile.TarInfo]:
    headers = cast(BinaryIO, _TarHeaders(held, max_header_bytes))
    with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        end = 0
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # otherwise it keeps all of them
            if info.size < 0 or tar.offset <= end:  # otherwise a crafted header is read forever, CVE-2025-8194
                raise tarfile.ReadError(f"a negative size at offset {info.offset}")
            if info.isreg() and not info.issparse() and info.offset_data + info.size > held.size:
                raise tarfile.ReadError(f"the file ends within {info.name!r}")
            end = tar.offset
            yield info
        if held.read(tar.offset, _BLOCK) != bytes(_BLOCK):  # tarfile treats a broken header as the end
            raise tarfile.ReadError(f"neither a header nor the end mark at offset {tar.offset} of {held.size}")


def _reason(info: tarfile.TarInfo, policy: SourcePolicy) -> str | None:
    if info.issym() or info.islnk():
        return "link"
    if not info.isreg():
        return "not_a_regular_file"
    if info.issparse():
        return "sparse_file"
    return "too_large" if info.size > policy.max_image_bytes else None


def unpack(path: Path, digest: str, kind: str, shown: str, policy: SourcePolicy) -> Path:
    """Unpack a compressed tar into the cache, unless it is there already. Returns the path of the plain tar.

    Args:
        path: the compressed archive.
        digest: its SHA-256.
        kind: `gzip` or `zstd`.
        shown: its name in messages.
        policy: limits the unpacked bytes; has the cache.

    Raises:
        SourceError: it is damaged, or a bomb; no more bytes are unpacked than the policy allows.
        StorageError: the disk can't hold it.
    """

    def make(unpacked: Path) -> None:
        try:
            with path.open("rb") as packed, atomic_file(unpacked) as file:
                _copy(_opened(packed, kind), packed, file, shown, policy)
        except (*_FAILURES, pa.ArrowException) as error:
            raise damaged(shown, error) from None
        except OSError as error:
            if error.errno is not None:
                raise
            raise damaged(shown, error) from None  # gzip and Arrow raise these for wrong bytes

    group = shown if shown.startswith("s3://") else str(path.resolve())
    return policy.cache.keep("unpacked", group, digest, make)[0]


def _opened(packed: BinaryIO, kind: str) -> Callable[[int], bytes]:
    if kind == "gzip":
        return gzip.GzipFile(fileobj=packed).read
    stream: Callable[[int], bytes] = pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), "zstd").read
    return stream


def _copy(read: Callable[[int], bytes], packed: BinaryIO, file: BinaryIO, shown: str, policy: SourcePolicy) -> None:
    written = 0
    for number, chunk in enumerate(iter(functools.partial(read, _CHUNK), b"")):
        written += len(chunk)
        policy.check_wanted()
        policy.check_unpacked(shown, packed.tell(), written)
        if number % _CHUNKS_BETWEEN_LOOKS == 0:
            _check_room(written, shown, policy)
        file.write(chunk)
    if written == 0:
        raise SourceError(f"The archive {shown} holds nothing. Give one with the images of each class in a folder.")


def _check_room(written: int, shown: str, policy: SourcePolicy) -> None:
    free = shutil.disk_usage(policy.cache.folder).free
    if free < _SPARE_BYTES:
        raise StorageError(
            f"The disk has {free:,} bytes left, and {shown} is not fully unpacked ({written:,} bytes so far). "
            f"Make room in {policy.cache.folder}, or unpack the archive elsewhere and give the folder."
        )
