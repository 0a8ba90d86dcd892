"""Zip archives: the central directory is the listing, and members are read by random access.

A name without the UTF-8 flag is decoded as UTF-8 if its bytes are valid UTF-8 (Linux, macOS), else as code page 437, as
the format says. In a zip made on DOS or Windows, a backslash separates folders. Only stored and deflated members are
read: with other methods, the archive decides how much memory is used.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import SourceError
from tasks.images.signatures import HEAD_BYTES
from tasks.images.sources.archive.members import ArchiveMember, damaged, safe_name
from tasks.images.sources.listing import SourceImage, consumed
from tasks.images.sources.policy import SourcePolicy

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED, _UTF8 = 0x1, 0x800  # bits of the general purpose flag, APPNOTE.TXT 4.4.4
_DOS, _NTFS, _UNIX, _DARWIN = 0, 10, 3, 19  # "version made by", 4.4.2
_PLACE = struct.Struct("<qQIHH")  # header_offset, compress_size, CRC, compress_type, flag_bits
_FAILURES = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, OverflowError)


class Zip:
    """A zip; `shown` is its name in messages. The place of an image is its entry in the directory, packed.

    Raises:
        SourceError: it is damaged.
    """

    def __init__(self, path: Path, shown: str) -> None:
        self._path, self._shown = path, shown
        try:
            self._archive = zipfile.ZipFile(path)  # stays open as long as members may be read
        except _FAILURES as error:
            raise damaged(shown, error) from None

    def members(self, policy: SourcePolicy) -> Iterator[ArchiveMember]:
        """Every file in the archive. May be called once.

        Raises:
            SourceError: it is a bomb, or its directory is damaged.
        """
        entries = self._archive.infolist()
        self._archive.NameToInfo.clear()
        unpacked = sum(entry.file_size for entry in entries if not _name(entry).endswith("/"))
        policy.check_unpacked(self._shown, self._path.stat().st_size, unpacked)
        entries.reverse()  # `consumed` begins at the end
        for entry in consumed(entries):
            if not _name(entry).endswith("/"):
                name, unsafe = safe_name(_name(entry))
                try:
                    place = _packed(entry)
                except struct.error as error:  # an offset of more than 8 EiB
                    raise damaged(self._shown, error) from None
                yield ArchiveMember(name, place, entry.file_size, unsafe or _reason(entry, policy))

    def read(self, image: SourceImage) -> bytes:
        """The bytes of an image; a SourceError if they are damaged."""
        return self._read(image, image.size_bytes)

    def read_head(self, image: SourceImage) -> bytes:
        """The first bytes of an image; a SourceError if they are damaged."""
        return self._read(image, min(image.size_bytes, HEAD_BYTES))

    def _read(self, image: SourceImage, size: int) -> bytes:
        """The first bytes of a member; all are checked by CRC. Several threads may read: zipfile locks its file."""
        entry = _unpacked(image)
        try:
            with self._archive.open(entry) as file:
                data = file.read(size)  # at most the size in the directory
        except SourceError:
            raise
        except (*_FAILURES, RuntimeError, OSError) as error:
            raise damaged(self._shown, error) from None
        if len(data) != size:
            raise damaged(self._shown, f"{entry.filename!r} has {len(data)} bytes instead of {entry.file_size}")
        return data


def _name(entry: zipfile.ZipInfo) -> str:
    name = entry.orig_filename
    if not entry.flag_bits & _UTF8:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = entry.orig_filename
    return name.replace("\\", "/") if entry.create_system in (_DOS, _NTFS) else name


def _reason(entry: zipfile.ZipInfo, policy: SourcePolicy) -> str | None:
    mode = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system in (_UNIX, _DARWIN) else 0
    if stat.S_ISLNK(mode):
        return "link"
    if mode and not stat.S_ISREG(mode):
        return "not_a_regular_file"
    if entry.flag_bits & _ENCRYPTED:
        return "encrypted"
    if entry.compress_type not in _METHODS:
        return "unsupported_compression"
    return "too_large" if entry.file_size > policy.max_image_bytes else None


def _packed(entry: zipfile.ZipInfo) -> bytes:
    """What zipfile needs to read an entry, in a fifth of the memory of its own record."""
    numbers = entry.header_offset, entry.compress_size, entry.CRC, entry.compress_type, entry.flag_bits
    return _PLACE.pack(*numbers) + entry.orig_filename.encode("utf-8", "surrogatepass")


def _unpacked(image: SourceImage) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo()
    numbers, name = image.place[: _PLACE.size], image.place[_PLACE.size :]
    entry.header_offset, entry.compress_size, entry.CRC, entry.compress_type, entry.flag_bits = _PLACE.unpack(numbers)
    entry.filename = entry.orig_filename = name.decode("utf-8", "surrogatepass")
    entry.file_size = image.size_bytes
    return entry
