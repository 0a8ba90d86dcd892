"""The record for a member of an archive, and the rules for names, which are the same for every kind of archive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tasks.errors import SourceError


@dataclass(frozen=True)
class ArchiveMember:
    """One entry of an archive that is not a folder.

    Attributes:
        parts: its path inside, folder by folder; undecodable bytes are surrogates.
        read: returns its bytes, or raises SourceError.
        read_head: returns the first bytes (`signatures.HEAD_BYTES`), or raises SourceError.
        size_bytes: unpacked.
        reason: why it is excluded; None for a regular file that may be read.
    """

    parts: tuple[str, ...]
    read: Callable[[], bytes]
    read_head: Callable[[], bytes]
    size_bytes: int
    reason: str | None = None


def safe_parts(name: str) -> tuple[tuple[str, ...], str | None]:
    """The parts of a member's name, and the reason to refuse it if unpacking would write outside of the folder.

    Backslashes and drive letters count too: the archive may come from a system where they lead outside.
    """
    either = name.replace("\\", "/").split("/")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith(("/", "\\")) or (name[1:2] == ":" and name[:1].isalpha() and name[2:3] in ("/", "\\")):
        return parts or (name,), "absolute_path"
    if ".." in either:
        return parts, "path_out_of_archive"
    if not parts or "\0" in name:
        return parts or (name,), "invalid_name"
    return parts, None


def damaged(archive: str, what: object) -> SourceError:
    said = " ".join(str(what).split())[:200]
    return SourceError(
        f"The archive {archive} is damaged or cut off ({said}). Get it again and compare its checksum with the "
        "publisher's, or unpack the rest of it yourself and give the folder."
    )
