"""The policy for sources: what they may access and hold in memory, and the cache for copies. Callers can't skip it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import SourceError
from tasks.images.reason_codes import RefusalCode, SourceChangedError
from tasks.images.signatures import HEAD_BYTES
from tasks.images.sources.layout import printable
from tasks.images.sources.source_cache import SourceCache
from tasks.settings import Settings
from tasks.workspace import Workspace


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

    def read_image(self, path: Path) -> bytes:
        """The bytes of a local image.

        Raises:
            SourceChangedError: the file has grown above `max_image_bytes` since it was listed.
        """
        with path.open("rb") as file:
            data = file.read(self.max_image_bytes + 1)
        if len(data) > self.max_image_bytes:
            grew = f"{printable(str(path))} grew above {self.max_image_bytes:,} bytes while it was read."
            raise SourceChangedError(grew, RefusalCode.CHANGED_WHILE_READ)
        return data

    def read_head(self, path: Path) -> bytes:
        """The first bytes of a local file."""
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)

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
