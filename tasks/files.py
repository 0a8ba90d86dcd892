"""Files that are never incomplete: atomic writes, checksums, Parquet tables.

Every file gets its final name only after its bytes are on the disk (temporary name, fsync, rename,
fsync of the folder). So a kill at any point leaves the old version or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tasks.errors import IntegrityError

if TYPE_CHECKING:
    import pyarrow as pa

TEMPORARY_SUFFIX = ".partial"
_ROWS_AT_ONCE = 10_000  # rows as dicts take ten times the bytes of the table
_HERE, _RENAME_EXCHANGE = -100, 2  # AT_FDCWD of fcntl.h, RENAME_EXCHANGE of linux/fs.h


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing. It appears under `path` only if the block ends without an error."""
    with _reserved(path, lambda temporary: temporary.touch(exist_ok=False)) as temporary:
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Create a folder to fill. It replaces `path` only if the block ends without an error."""
    with _reserved(path, Path.mkdir) as temporary:
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    sync_file(file)
            if path.exists():
                _exchange(temporary, path)
            else:
                temporary.replace(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    sync_folder(path.parent)
    shutil.rmtree(temporary, ignore_errors=True)  # the old version


def sweep_temporaries(folder: Path) -> int:
    """Remove temporary files of killed processes from `folder` (not from its sub-folders)."""
    swept = 0
    for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        lock = _lock_unused(leftover)
        if lock is not None:
            try:
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)
            finally:
                os.close(lock)
            swept += 1
    return swept


def is_abandoned(leftover: Path) -> bool:
    """Whether `sweep_temporaries` would remove this temporary file or folder."""
    lock = _lock_unused(leftover)
    if lock is None:
        return False
    os.close(lock)
    return True


@contextlib.contextmanager
def _reserved(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A new file or folder beside `path`, which `sweep_temporaries` spares, because this process holds its lock.

    The kernel releases the lock when the process ends. Unlike a process number, it means the same in all containers
    that share a folder, and on NFS on all machines (there, folders can't be locked, so they are never swept).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = None
    while lock is None:  # a sweeper may find it before it is locked: then make another one
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
        make(temporary)
        lock = _lock_new(temporary)
    try:
        yield temporary
    finally:
        os.close(lock)


def _lock_new(temporary: Path) -> int | None:
    """A descriptor that holds the lock of a new file or folder; None if it was removed meanwhile."""
    try:
        descriptor = _open(temporary)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):  # a file system without locks: nothing can be swept there either
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if temporary.exists():
        return descriptor
    os.close(descriptor)
    return None


def _lock_unused(leftover: Path) -> int | None:
    """A descriptor that holds the lock; None if a writer holds it, if the file is gone, or if it can't be locked."""
    try:
        descriptor = _open(leftover)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # NFS locks only what may be written


def write_bytes(path: Path, data: bytes) -> None:
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """JSON that is the same bytes for the same value: sorted keys, two spaces, no NaN."""
    return f"{json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)}\n".encode()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_table(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows as Parquet (zstd). The same rows write the same bytes."""
    import pyarrow as pa  # with NumPy, it is most of the import time of a small program
    import pyarrow.parquet as pq

    left, batches = iter(rows), []
    while some := list(itertools.islice(left, _ROWS_AT_ONCE)):
        batches.append(pa.RecordBatch.from_pylist(some, schema=schema))
    table = pa.Table.from_batches(batches, schema=schema).combine_chunks()
    with atomic_file(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def stream_table(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file. The call itself reads the file and verifies its checksums.

    Raises:
        IntegrityError: the file is missing or damaged.
    """
    import pyarrow.parquet as pq

    wanted = None if columns is None else list(columns)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:  # `read_table` imports all that computes
            table = file.read(columns=wanted)
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"{path} is missing or damaged ({' '.join(str(error).split())[:200]}). Run `dvc repro` from the start."
        ) from None
    batches = table.to_batches(max_chunksize=_ROWS_AT_ONCE)
    return ({name: _shared(value) for name, value in row.items()} for batch in batches for row in batch.to_pylist())


def read_table(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a Parquet file in a list; see `stream_table`."""
    return list(stream_table(path, columns))


def _shared(value: Any) -> Any:
    """The value; equal strings become one object, because many rows and tables hold the same words."""
    return sys.intern(value) if type(value) is str else value


def sha256_hex(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path, on_chunk: Callable[[], None] | None = None) -> str:
    """SHA-256 (hex) of a file; `on_chunk` is called after each MiB, and may raise to stop."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            if on_chunk is not None:
                on_chunk()
    return digest.hexdigest()


def fingerprint(value: Any) -> str:
    """16 hex digits that change whenever the JSON value changes."""
    return sha256_hex(json.dumps(value, sort_keys=True).encode())[:16]


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders' names: on Linux in one step; elsewhere a kill in between can leave no folder `other`."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc 2.28; Python doesn't offer it
    if swap and swap(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return
    aside = one.with_name(f"{one.name.removesuffix(TEMPORARY_SUFFIX)}.old")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def sync_file(path: Path) -> None:
    """Wait until the file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until new names in the folder are on the disk, so that they survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
