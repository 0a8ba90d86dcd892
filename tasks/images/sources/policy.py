"""The policy for sources: what they may access and hold in memory, and the cache for copies. Callers can't skip it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tasks.errors import SourceError
from tasks.images.sources.layout import printable
from tasks.images.sources.memory import available_bytes
from tasks.images.sources.source_cache import SourceCache
from tasks.settings import Settings
from tasks.workspace import Workspace

Entry = TypeVar("Entry")

BYTES_AN_ENTRY = 1_500
"""`ingest` holds less than this about an entry: in the listing, and in the tables that it reads and writes."""
_SPARE_BYTES = 256 << 20
_ENTRIES_BETWEEN_LOOKS = 10_000


class ListingStopped(Exception):
    """A listing was stopped, because nobody waits for it any more, or because it may not download anything."""


def _always() -> bool:
    return True


@dataclass(frozen=True)
class SourcePolicy:
    """The allow-lists of the settings, the folders of the workspace, and the limits of this project.

    Attributes:
        folder: the folder for relative paths of sources.
        clone: relative paths that aren't in the folder of a deployed run are here, committed or not.
        cache: for copies of sources; the runs of a clone share it.
        s3_buckets: allow-list of the buckets that a table may name besides its own bucket. Without it, a table could
            name any object that the credentials can read.
        s3_endpoints: allow-list of the endpoints that the environment may set; if empty, all are allowed.
        max_image_bytes: a larger file is excluded and never read.
        max_memory_bytes: limit for a table (unpacked, for Parquet), and for an object in S3 without an ETag, which has
            to be read in one piece; a larger one is refused before it is read.
        max_header_bytes: limit for the header of a tar's member. The longest path has 4 KiB; longer headers hold
            extended attributes.
        max_unpacked_bytes: limit for an archive.
        max_unpacked_ratio: unpacked bytes divided by packed bytes; blank bitmaps come close to the limit.
        unpacked_bytes_free: this many unpacked bytes are allowed with any ratio.
        is_wanted: asked again and again during a listing; once it returns False, the listing is stopped.
        may_download: whether an archive in S3 may be downloaded for a listing, if it isn't in the cache.
        labelled: whether images need labels. Without, as for scoring, they may lie anywhere, and the source's splits
            don't count.
    """

    folder: Path
    clone: Path
    cache: SourceCache
    s3_buckets: tuple[str, ...]
    s3_endpoints: tuple[str, ...]
    max_image_bytes: int
    max_memory_bytes: int = 2 << 30
    max_header_bytes: int = 64 << 10
    max_unpacked_bytes: int = 2 << 40
    max_unpacked_ratio: int = 100
    unpacked_bytes_free: int = 64 << 20
    is_wanted: Callable[[], bool] = _always
    may_download: bool = True
    labelled: bool = True

    @classmethod
    def of(cls, settings: Settings, workspace: Workspace) -> SourcePolicy:
        source, max_image_bytes = settings.source, settings.ingest.max_file_mb * 1_000_000
        cache = SourceCache(workspace.source_cache)
        return cls(workspace.folder, workspace.clone, cache, source.s3_buckets, source.s3_endpoints, max_image_bytes)

    def path(self, uri: str) -> Path:
        """The file or folder of a source's address, which may begin with `~` or `~user`.

        If it doesn't exist, this is where a person expects it: in the clone, not in the folder of a deployed run.
        """
        given = os.path.expanduser(uri)  # noqa: PTH111 - Path.expanduser raises an error if there is no such user
        here = self.folder / given
        return here if here.exists() else self.clone / given

    def check_file(self, kind: str, uri: str, example: str) -> Path:
        """The local file of an archive or a table.

        Raises:
            SourceError: it is missing, a folder, or unreadable.
        """
        path = self.path(uri)
        if not path.is_file():
            what = "is not a file" if path.exists() else f"doesn't exist (looked for {path})"
            raise SourceError(f"The {kind} {uri!r} {what}. Give an existing one: make run SOURCE=path/to/{example}")
        if not os.access(path, os.R_OK):
            raise SourceError(f"The {kind} {uri!r} can't be read by this user. Fix it: chmod u+r {uri}")
        return path

    def watched(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The entries of a listing, one by one, as long as the listing may go on.

        Raises:
            ListingStopped: see `check_wanted`.
            SourceError: the memory of this machine doesn't suffice for so many entries.
        """
        for number, entry in enumerate(entries, 1):
            self.check_wanted()
            if number % _ENTRIES_BETWEEN_LOOKS == 0:
                _check_room(number)
            yield entry

    def check_wanted(self) -> None:
        """Long steps of a listing call this again and again.

        Raises:
            ListingStopped: nobody waits for the listing any more.
        """
        if not self.is_wanted():
            raise ListingStopped

    def check_memory(self, what: str, size: int) -> None:
        """Refuse something that is too large for memory.

        Raises:
            SourceError: the size is above the limit.
        """
        if size > self.max_memory_bytes:
            raise SourceError(
                f"{what} takes {size:,} bytes of memory; at most {self.max_memory_bytes:,} are allowed. Split it."
            )

    def check_unpacked(self, archive: str, packed: int, unpacked: int) -> None:
        """Refuse a decompression bomb.

        Raises:
            SourceError: the archive unpacks to too many bytes, in all or for its size.
        """
        allowed = min(self.max_unpacked_bytes, self.unpacked_bytes_free + self.max_unpacked_ratio * packed)
        if unpacked > allowed:
            raise SourceError(
                f"The archive {archive} is refused: {packed:,} packed bytes unpack to {unpacked:,} or more, and at "
                f"most {allowed:,} are allowed ({self.max_unpacked_ratio} times as many; {self.max_unpacked_bytes:,} "
                "in all). Archives of images don't shrink this much, but archives that attack a disk do. If you trust "
                "it, unpack it yourself and give the folder."
            )

    def wrong_with_bucket(self, bucket: str, own: str | None) -> str | None:
        """Why a table may not name this bucket; None if it may. `own` is the table's bucket, None for a local table."""
        if bucket == own or bucket in self.s3_buckets:
            return None
        where = "is not the table's own bucket, nor" if own else "is not"
        return f"the bucket {printable(bucket)!r} {where} in source.s3_buckets: add it if you trust this table"


def _check_room(number: int) -> None:
    """Refuse a listing before the kernel kills this process, or another one, because the memory is full.

    Raises:
        SourceError: too little memory is available for all that `ingest` will hold about so many entries.
    """
    available = available_bytes()
    if available < _SPARE_BYTES + number * BYTES_AN_ENTRY:
        raise SourceError(
            f"The source has more than {number:,} entries, and this machine has too little memory for more of them: "
            f"{available / 1e9:.1f} GB are available, and each entry takes up to {BYTES_AN_ENTRY:,} bytes. Give this "
            "machine (or this container) more memory, or give a source with fewer entries, such as a folder below this "
            "one or a table of the images that you want."
        )
