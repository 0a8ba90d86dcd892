"""What a source may reach, read and hold in memory, and where its copies lie: one policy that no caller can skip."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import SourceError
from tasks.images.sources.layout import printable
from tasks.images.sources.source_cache import SourceCache
from tasks.settings import Source
from tasks.workspace import Workspace


@dataclass(frozen=True)
class SourcePolicy:
    """The allow-lists of the settings, the folders of the workspace, and the limits of this project.

    Attributes:
        folder: where relative paths of sources start.
        cache: for copies of sources; the runs of a clone share it.
        s3_buckets: allow-list of the buckets that a table may name besides the one in which it lies: a table could
            otherwise name anything that the credentials open.
        s3_endpoints: allow-list of the endpoints that the environment may give; with none, any.
        max_image_bytes: a larger file is not an image; it is excluded and never read.
        max_memory_bytes: of a table (unpacked, for Parquet), and of an object in S3 without an ETag, which has to be
            read in one piece; a larger one is refused before it is read.
        max_header_bytes: of a tar's member. The longest path has 4 KiB; more are extended attributes.
        max_unpacked_bytes: of an archive.
        max_unpacked_ratio: unpacked bytes to packed ones; blank bitmaps come close to the limit.
        unpacked_bytes_free: as many unpacked bytes are allowed whatever the ratio.
    """

    folder: Path
    cache: SourceCache
    s3_buckets: tuple[str, ...]
    s3_endpoints: tuple[str, ...]
    max_image_bytes: int = 256 << 20
    max_memory_bytes: int = 2 << 30
    max_header_bytes: int = 64 << 10
    max_unpacked_bytes: int = 2 << 40
    max_unpacked_ratio: int = 100
    unpacked_bytes_free: int = 64 << 20

    @classmethod
    def of(cls, source: Source, workspace: Workspace) -> SourcePolicy:
        return cls(workspace.folder, SourceCache(workspace.source_cache), source.s3_buckets, source.s3_endpoints)

    def path(self, uri: str) -> Path:
        """The file or folder that a source's address names."""
        return self.folder / uri

    def check_file(self, kind: str, uri: str, example: str) -> Path:
        """The local file of an archive or a table.

        Raises:
            SourceError: it is missing, a folder, or unreadable.
        """
        path = self.path(uri)
        if not path.is_file():
            what = "is not a file" if path.exists() else f"doesn't exist (looked in {self.folder})"
            raise SourceError(f"The {kind} {uri!r} {what}. Give an existing one: make run SOURCE=path/to/{example}")
        if not os.access(path, os.R_OK):
            raise SourceError(f"The {kind} {uri!r} can't be read by this user. Fix it: chmod u+r {uri}")
        return path

    def read_image(self, path: Path) -> bytes:
        """The bytes of a local image, which may have grown since it was listed.

        Raises:
            SourceError: there are more than an image may have.
        """
        with path.open("rb") as file:
            data = file.read(self.max_image_bytes + 1)
        if len(data) > self.max_image_bytes:
            raise SourceError(f"{printable(str(path))} grew above {self.max_image_bytes:,} bytes. Run again.")
        return data

    def check_memory(self, what: str, size: int) -> None:
        """Refuse what is too large to be held in memory.

        Raises:
            SourceError: it has more bytes than the limit.
        """
        if size > self.max_memory_bytes:
            raise SourceError(
                f"{what} takes {size:,} bytes of memory, at most {self.max_memory_bytes:,} are allowed. Split it."
            )

    def check_unpacked(self, archive: str, packed: int, unpacked: int) -> None:
        """Refuse a decompression bomb.

        Raises:
            SourceError: the unpacked bytes are more than the packed ones can honestly hold.
        """
        allowed = min(self.max_unpacked_bytes, self.unpacked_bytes_free + self.max_unpacked_ratio * packed)
        if unpacked > allowed:
            raise SourceError(
                f"The archive {archive} is refused: {packed:,} packed bytes unpack to {unpacked:,} or more, and at "
                f"most {allowed:,} are allowed ({self.max_unpacked_ratio} times as many; {self.max_unpacked_bytes:,} "
                "in all). Images don't shrink like that; archives that are made to fill a disk do. If you trust it, "
                "unpack it yourself and give the folder."
            )

    def wrong_with_bucket(self, bucket: str, own: str | None) -> str | None:
        """Why a table in the bucket `own` (None: a local table) may not name this bucket; None if it may."""
        if bucket == own or bucket in self.s3_buckets:
            return None
        where = "is not the table's own bucket, nor" if own else "is not"
        return f"the bucket {printable(bucket)!r} {where} in source.s3_buckets: add it if you trust this table"
