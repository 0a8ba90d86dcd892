"""A large object as a file: resumed over runs, published whole, fetched again only when it changed.

What has arrived lies in `.NAME.<version>.download`, a part of 8 MiB after the other, each synced before the next; a
later run goes on after the last whole one. `.NAME.version` notes which version the file `NAME` is, and what the file
looked like when it was written. `.NAME.lock` keeps a second process waiting.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tasks.files import fingerprint, read_json, sync_folder, write_json
from tasks.images.sources import source_cache
from tasks.images.sources.s3_objects import PART_BYTES, Reading, Stored, damaged, is_whole, parts


def download(client: Any, stored: Stored, path: Path) -> None:
    """Make `path` this version of the object; no request is made if it is that already.

    Raises:
        SourceError: as `s3_objects.fetch`; what has arrived is kept for the next run.
        OSError: the disk is full or read-only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(_beside(path, "lock")):
        if _is_current(path, stored):
            return
        partial = _beside(path, f"{fingerprint([str(stored.address), stored.etag, stored.size])}.download")
        for other in path.parent.glob(f".{path.name}.*.download"):
            if other != partial:
                other.unlink()
        _fill(Reading(client, stored), partial)
        partial.replace(path)
        sync_folder(path.parent)
        write_json(_beside(path, "version"), {"version": stored.version, "identity": source_cache.identity(path)})


def _fill(reading: Reading, partial: Path) -> None:
    for _ in range(2):  # damage on the way is not there the second time
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


def _kept_bytes(arrived: int, stored: Stored) -> int:
    """Whole parts only: the last one may have been cut off. Without an ETag nothing says what they are parts of."""
    if not stored.etag or arrived > stored.size:
        return 0
    return arrived if arrived == stored.size else arrived // PART_BYTES * PART_BYTES


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def _is_current(path: Path, stored: Stored) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return stored.version is not None and read_json(_beside(path, "version")) == {
            "version": stored.version,
            "identity": source_cache.identity(path),
        }
    return False


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{ending}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    file: BinaryIO
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
