"""Copies of sources: downloaded and unpacked archives, indexes, and digests of local files.

All runs of a clone share one cache, also at the same time. An entry is a folder `KIND/GROUP-CONTENT/`. The name
contains its source and its content, so an entry never changes. It is valid once its note is written; the note holds
the file's SHA-256 and its identity. A process that makes or removes the entry holds `KIND/GROUP-CONTENT.lock`. People
may delete anything in the cache at any time.

An entry that was used within the last hour stays. Otherwise it is deleted when its group has a newer content, when it
was not used for two weeks, or when there are many entries that were used more recently.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tasks.files import file_sha256, fingerprint, read_json, sweep_temporaries, write_json

IN_USE_S = 3600
"""A run opens an entry soon after it gets the path; the open file stays readable even if the entry is removed."""
KEPT_S = 14 * 86400
MAX_ENTRIES = 64
_RACY_S = 3
_DATA, _NOTE = "data", "note.json"


def identity(path: Path) -> str:
    """A string that differs whenever the file's bytes may differ.

    It includes the inode's change time. No program can set that time, unlike the modification time, so new bytes with
    an old modification time (`touch -r`) are noticed.
    """
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}:{stat.st_dev}"


@dataclass(frozen=True)
class SourceCache:
    """The cache in one folder."""

    folder: Path

    def keep(self, kind: str, group: str, content: str, make: Callable[[Path], None]) -> tuple[Path, str]:
        """Return the file with this content and its SHA-256; it is made if it is missing or damaged.

        Args:
            kind: kind of the entries, such as `unpacked`; the name of a folder.
            group: the source of the content; only the newest content of a group is kept.
            content: a different string for each content. If several processes need the same, one makes it.
            make: writes the file to the given path. Other files that it leaves there stay for the next attempt.
        """
        entry = self.folder / kind / f"{fingerprint(group)}-{fingerprint(content)}"
        with _locked(entry):
            digest = _digest_in(entry)
            if digest is None:
                entry.mkdir(exist_ok=True)
                sweep_temporaries(entry)
                make(entry / _DATA)
                digest = file_sha256(entry / _DATA)
                _note(entry, digest)
            os.utime(entry)
        self._sweep(entry)
        return entry / _DATA, digest

    def digest_of(self, path: Path, on_chunk: Callable[[], None] | None = None) -> str:
        """SHA-256 (hex) of a file of the source; the file is read only if it isn't the same as the last time.

        Cost: one sequential read (1 to 2 GB/s of processor time), then none until the file changes. A file that changed
        within the last seconds is read again: clocks of file systems are coarse (git calls such entries racy).
        `on_chunk` is called after each MiB, and may raise to stop.
        """
        note = self.folder / "digests" / f"{fingerprint(str(path.resolve()))}.json"
        before = identity(path)
        known = _read_note(note)
        if known.get("identity") == before:
            os.utime(note)
            return known["sha256"]
        digest = file_sha256(path, on_chunk)
        if identity(path) == before and abs(time.time() - path.stat().st_ctime) > _RACY_S:
            write_json(note, {"identity": before, "sha256": digest})
            for other in note.parent.glob("*.json"):
                if _idle_s(other) > KEPT_S:
                    other.unlink(missing_ok=True)
        return digest

    def _sweep(self, used: Path) -> None:
        """Remove unused entries of one kind."""
        group = used.name.partition("-")[0]

        def is_unused(entry: Path, rank: int) -> bool:
            is_superseded = entry.name.partition("-")[0] == group
            is_stale = is_superseded or _idle_s(entry) > KEPT_S or rank >= MAX_ENTRIES
            is_unfinished = not (entry / _NOTE).exists()
            return is_stale and (_idle_s(entry) > IN_USE_S or (is_superseded and is_unfinished))

        others = [path for path in used.parent.iterdir() if path.suffix != ".lock" and path != used]
        for rank, other in enumerate(sorted(others, key=_idle_s)):
            if is_unused(other, rank):
                with _locked(other, wait=False) as is_free:
                    if is_free and is_unused(other, rank):  # another process may have finished it, or used it
                        (other / _NOTE).unlink(missing_ok=True)  # a half-removed entry must not be valid
                        shutil.rmtree(other, ignore_errors=True)
                        _lock_of(other).unlink(missing_ok=True)


def _digest_in(entry: Path) -> str | None:
    """The SHA-256 of an entry's file; None if it is missing, incomplete or damaged."""
    note, data = _read_note(entry / _NOTE), entry / _DATA
    if not note or not data.exists():
        return None
    if note["identity"] != identity(data):
        if file_sha256(data) != note["sha256"]:
            return None
        _note(entry, note["sha256"])  # the same bytes with another identity: the clone was copied
    return note["sha256"]


def _note(entry: Path, digest: str) -> None:
    write_json(entry / _NOTE, {"identity": identity(entry / _DATA), "sha256": digest})


def _read_note(path: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        note = read_json(path)
        if isinstance(note, dict) and note.keys() == {"identity", "sha256"}:
            return note
    return {}


def _idle_s(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):  # another process swept it
        return time.time() - path.stat().st_mtime
    return 0.0


def _lock_of(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.lock")


@contextlib.contextmanager
def _locked(entry: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an entry's lock. Yields whether it is held (always True with `wait`). The process's end releases it."""
    path = _lock_of(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            if _is_at(path, file):
                yield True
                return
        # The last holder of the lock has removed the entry and the lock file: open the new lock file.


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether the open file has this path; it hasn't if another process has removed or replaced it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
