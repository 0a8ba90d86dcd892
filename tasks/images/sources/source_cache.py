"""Copies of sources: downloaded and unpacked archives, indexes, and digests of files that were read.

All runs of a clone share one cache, at the same time too. An entry is `KIND/GROUP-CONTENT/`: the name says which source
it was made from and which content it has, so an entry never changes. It counts once its note is written; the note holds
the file's SHA-256 and its identity. `KIND/GROUP-CONTENT.lock` is held by whoever makes or removes the entry. Anybody
may delete any of this at any time.

An entry that was used within the last hour stays. Otherwise it goes when a newer content of its group is there, when
nobody used it for two weeks, or when there are many more recently used ones.
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

from tasks.files import file_sha256, fingerprint, read_json, sweep_temporaries, write_json

IN_USE_S = 3600
"""A run opens an entry soon after it asked for it; from then on the open file stays readable, whoever removes it."""
KEPT_S = 14 * 86400
MAX_ENTRIES = 64
_RACY_S = 3
_DATA, _NOTE = "data", "note.json"


def identity(path: Path) -> str:
    """Differs whenever the file's bytes may differ.

    The time of the inode's last change is part of it; unlike the modification time, no program can set it, so new bytes
    under an old time (`touch -r`) are noticed.
    """
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}:{stat.st_dev}"


@dataclass(frozen=True)
class SourceCache:
    """The cache in one folder."""

    folder: Path

    def keep(self, kind: str, group: str, content: str, make: Callable[[Path], None]) -> tuple[Path, str]:
        """The file that holds this content, made unless it is there and undamaged; and its SHA-256.

        Args:
            kind: of the entries, such as `unpacked`; the name of a folder.
            group: what the content comes from; of one group only the newest content is kept.
            content: another value for any other content; several processes that ask for the same wait for one.
            make: writes the file under the path that it is given. What it leaves beside it is there when a later
                process tries again.
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

    def digest_of(self, path: Path) -> str:
        """SHA-256 (hex) of a file of the source; read only if it isn't the file that was read the last time.

        Cost: one sequential reading (1 to 2 GB/s of processor time), then none until the file changes. A file that
        changed within the last seconds is read again: clocks of file systems are coarse (git calls such entries racy).
        """
        note = self.folder / "digests" / f"{fingerprint(str(path.resolve()))}.json"
        before = identity(path)
        known = _read_note(note)
        if known.get("identity") == before:
            os.utime(note)
            return known["sha256"]
        digest = file_sha256(path)
        if identity(path) == before and abs(time.time() - path.stat().st_ctime) > _RACY_S:
            write_json(note, {"identity": before, "sha256": digest})
            for other in note.parent.glob("*.json"):
                if _idle_s(other) > KEPT_S:
                    other.unlink(missing_ok=True)
        return digest

    def _sweep(self, used: Path) -> None:
        """Remove what nobody uses among the entries of one kind."""
        group = used.name.partition("-")[0]
        others = [path for path in used.parent.iterdir() if path.suffix != ".lock" and path != used]
        for rank, other in enumerate(sorted(others, key=_idle_s)):
            is_superseded = other.name.partition("-")[0] == group
            is_stale = is_superseded or _idle_s(other) > KEPT_S or rank >= MAX_ENTRIES
            is_unfinished = not (other / _NOTE).exists()
            if is_stale and (_idle_s(other) > IN_USE_S or (is_superseded and is_unfinished)):
                with _locked(other, wait=False) as is_free:
                    if is_free:
                        (other / _NOTE).unlink(missing_ok=True)  # half removed, it must not count
                        shutil.rmtree(other, ignore_errors=True)
                        _lock_of(other).unlink(missing_ok=True)


def _digest_in(entry: Path) -> str | None:
    """The SHA-256 of an entry's file, None if it isn't there, whole and undamaged."""
    note, data = _read_note(entry / _NOTE), entry / _DATA
    if not note or not data.exists():
        return None
    if note["identity"] != identity(data):
        if file_sha256(data) != note["sha256"]:
            return None
        _note(entry, note["sha256"])  # the same bytes in another file: the clone was copied
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
    """Hold an entry's lock; gives whether it is held, which it always is after waiting. It ends with the process."""
    path = _lock_of(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                yield True
                return
        # Whoever held the lock has removed the entry, and the lock file with it: take the new one.
