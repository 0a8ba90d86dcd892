"""Downloads a large object to a file. A later run can resume it, and the file appears only when it is complete.

The bytes so far are in `.NAME.download`, in order, in parts of 8 MiB, each synced before the next. A later run
continues after the last whole part. (boto3's s3transfer also pins the version by IfMatch, but starts again after a
kill, because it writes its parts in any order to a file with a random name.)
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from tasks.files import sync_folder
from tasks.images.sources.s3.objects import PART_BYTES, ObjectReader, StoredObject, damaged, is_whole, parts


def download(client: Any, stored: StoredObject, path: Path) -> None:
    """Write this version of the object to `path`.

    Args:
        client: of S3.
        stored: the version.
        path: no other process may write there. An earlier call for this version may have left bytes beside it.

    Raises:
        SourceError: see `objects.fetch`; the bytes so far are kept.
        OSError: the disk is full or read-only.
    """
    partial = path.with_name(f".{path.name}.download")
    _fill(ObjectReader(client, stored), partial)
    partial.replace(path)
    sync_folder(path.parent)


def _fill(reading: ObjectReader, partial: Path) -> None:
    for _ in range(2):  # damage in transit doesn't happen twice
        with partial.open("ab+") as file:
            kept = _kept_bytes(file.tell(), reading.stored)
            file.truncate(kept)
            for part in parts(reading, kept):
                file.write(part)
                file.flush()
                os.fsync(file.fileno())
            file.seek(0)
            if is_whole(reading, hashlib.file_digest(file, _md5).hexdigest()):
                return
        partial.unlink()
    raise damaged(reading)


def _kept_bytes(arrived: int, stored: StoredObject) -> int:
    """The bytes in whole parts: the last part may be cut off. Zero without an ETag, because the version is unknown."""
    if not stored.etag or arrived > stored.size:
        return 0
    return arrived if arrived == stored.size else arrived // PART_BYTES * PART_BYTES


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)
