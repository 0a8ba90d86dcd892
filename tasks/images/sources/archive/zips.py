"""Zip archives: the central directory is the listing, and members are read by random access.

A name without the UTF-8 flag is decoded as UTF-8 if its bytes are valid UTF-8 (Linux, macOS), else as code page 437, as
the format says. In a zip made on DOS or Windows, a backslash separates folders. Only stored and deflated members are
read: with other methods, the archive decides how much memory is used.
"""

from __future__ import annotations

import functools
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import SourceError
from tasks.images.signatures import HEAD_BYTES
from tasks.images.sources.archive.members import ArchiveMember, damaged, safe_parts
from tasks.images.sources.policy import SourcePolicy

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED, _UTF8 = 0x1, 0x800  # bits of the general purpose flag, APPNOTE.TXT 4.4.4
_DOS, _NTFS, _UNIX, _DARWIN = 0, 10, 3, 19  # "version made by", 4.4.2
_FAILURES = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, OverflowError)


def list_zip(path: Path, shown: str, policy: SourcePolicy) -> Iterator[ArchiveMember]:
    """Every file in the archive; `shown` is its name in messages.

    Raises:
        SourceError: it is damaged, or a bomb.
    """
    try:
        archive = zipfile.ZipFile(path)  # stays open as long as members may be read
    except _FAILURES as error:
        raise damaged(shown, error) from None
    entries = [entry for entry in archive.infolist() if not _name(entry).endswith("/")]
    policy.check_unpacked(shown, path.stat().st_size, sum(entry.file_size for entry in entries))
    for entry in entries:
        parts, unsafe = safe_parts(_name(entry))
        read = functools.partial(_read, archive, entry, shown, entry.file_size)
        head = functools.partial(_read, archive, entry, shown, min(entry.file_size, HEAD_BYTES))
        yield ArchiveMember(parts, read, head, entry.file_size, unsafe or _reason(entry, policy))


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


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, shown: str, size: int) -> bytes:
    """The first bytes of a member; all are checked by CRC. Several threads may read at once: zipfile locks its file."""
    try:
        with archive.open(entry) as file:
            data = file.read(size)  # at most the size in the directory
    except SourceError:
        raise
    except (*_FAILURES, RuntimeError, OSError) as error:
        raise damaged(shown, error) from None
    if len(data) != size:
        raise damaged(shown, f"{entry.filename!r} has {len(data)} bytes instead of {entry.file_size}")
    return data
