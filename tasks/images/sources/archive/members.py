"""The record for a member of an archive, and the rules for names, which are the same for every kind of archive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.errors import SourceError


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """One entry of an archive that is not a folder.

    Attributes:
        name: its path inside, `/` between folders; undecodable bytes are surrogates.
        place: tells the archive's reader where its bytes are.
        size_bytes: unpacked.
        reason: why it is excluded; None for a regular file that may be read.
    """

    name: str
    place: Any
    size_bytes: int
    reason: str | None = None


def safe_name(name: str) -> tuple[str, str | None]:
    """The name of a member without empty parts, and the reason to refuse it if unpacking would write outside.

    Backslashes and drive letters count too: the archive may come from a system where they lead outside.
    """
    either = name.replace("\\", "/").split("/")
    inside = "/".join(part for part in name.split("/") if part not in ("", "."))
    inside = name if inside == name else inside  # one object
    if name.startswith(("/", "\\")) or (name[1:2] == ":" and name[:1].isalpha() and name[2:3] in ("/", "\\")):
        return inside or name, "absolute_path"
    if ".." in either:
        return inside, "path_out_of_archive"
    if not inside or "\0" in name:
        return inside or name, "invalid_name"
    return inside, None


def damaged(archive: str, what: object) -> SourceError:
    said = " ".join(str(what).split())[:200]
    return SourceError(
        f"The archive {archive} is damaged or cut off ({said}). Get it again and compare its checksum with the "
        "publisher's, or unpack the rest of it yourself and give the folder."
    )
