"""The parts of a scored source: which rows each must hold, and whether an earlier run has written it.

A part's name contains the fingerprint of all that its rows depend on: the images with their versions, the model, the
format. A part appears under its name only when it is complete. So no list of what is done is needed: a run writes the
parts whose names are missing, and a source that grew keeps the parts that it didn't change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.files import fingerprint
from tasks.images.sources import Excluded, SourceImage, SourceListing
from tasks.images.sources.local_files import LocalFiles
from tasks.images.sources.source_cache import identity

NO_IMAGES = ("system_file", "empty_folder", "folder_marker")
"""Reasons of entries that get no row: nobody means them as images."""
_NAME = re.compile(r"part-\d{5,}-[0-9a-f]{16}\.\w+")
_VERSION = 1


@dataclass(frozen=True)
class Part:
    """Rows of consecutive entries of a source.

    Attributes:
        name: of its file.
        entries: one for each row.
    """

    name: str
    entries: Sequence[SourceImage | Excluded]


def plan(listing: SourceListing, rows: int, facts: dict[str, Any], suffix: str) -> Iterator[Part]:
    """All parts of a source, in order.

    Args:
        listing: the source.
        rows: most rows in a part.
        facts: JSON; all that the rows depend on besides the entries.
        suffix: of the files' names.
    """
    excluded = [entry for entry in listing.excluded if entry.reason not in NO_IMAGES]
    together: list[SourceImage | Excluded] = [*listing.images, *excluded]
    entries = sorted(together, key=lambda entry: entry.path)
    for number, begin in enumerate(range(0, len(entries), rows)):
        some = entries[begin : begin + rows]
        print_of = fingerprint({**facts, "version": _VERSION, "entries": [_version(entry) for entry in some]})
        yield Part(f"part-{number:05d}-{print_of}{suffix}", some)


def sweep(folder: Path, parts: Sequence[Part]) -> None:
    """Remove the parts of other images, models or formats."""
    names = {part.name for part in parts}
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name) and path.name not in names:
            path.unlink()


def _version(entry: SourceImage | Excluded) -> list[Any]:
    """Differs whenever the entry's row may differ."""
    if isinstance(entry, Excluded):
        return [entry.path, entry.reason]
    version = entry.version
    if version is None and isinstance(entry.reader, LocalFiles):
        try:
            version = identity(entry.reader.root / str(entry.place))
        except OSError:
            version = "gone"
    return [entry.path, version, entry.size_bytes]
