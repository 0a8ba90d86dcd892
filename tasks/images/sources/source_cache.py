"""What the sources may write: files below `.rootstock/` in the current folder, which anybody may delete at any time.

A file that was read once isn't read again while it is the same file: size, times, inode and device tell. The time of
the last change of the inode is among them; unlike the modification time, no program can set it, so new bytes under an
old time (`touch -r`) are noticed. A file that changed within the last seconds is not trusted: clocks of file systems
are coarse (git calls such entries racy).
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from tasks.files import file_sha256, read_json, sweep_temporaries, write_json

SCRATCH = Path(".rootstock/sources")
_RACY_S = 3
_lock = threading.Lock()


def identity(path: Path) -> str:
    """Differs whenever the file's bytes may differ."""
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}:{stat.st_dev}"


def digest_of(path: Path) -> str:
    """SHA-256 (hex) of a file; read only if it isn't the file that was read the last time.

    Cost: one sequential reading (1 to 2 GB/s of processor time), then none until the file changes.
    """
    key, before = str(path.resolve()), identity(path)
    known = _known()
    if key in known and known[key][0] == before:
        return known[key][1]
    digest = file_sha256(path)
    if identity(path) == before and _is_settled(path):
        remember(path, digest)
    return digest


def remember(path: Path, digest: str) -> None:
    """Note what the file is now, for `digest_of` and `is_untouched`."""
    with _lock:
        known = _known()
        known[str(path.resolve())] = [identity(path), digest]
        kept = {key: value for key, value in known.items() if Path(key).exists()}
        write_json(SCRATCH / "digests.json", kept)


def is_untouched(path: Path, digest: str) -> bool:
    """Whether the file is there, and is what `remember` noted."""
    return path.exists() and _known().get(str(path.resolve())) == [identity(path), digest]


def sweep(folder: Path, keep: str) -> None:
    """Remove the files of a scratch folder whose names don't begin with `keep`, and what killed writers left."""
    if folder.is_dir():
        sweep_temporaries(folder)
        for path in folder.iterdir():
            if path.is_file() and not path.name.lstrip(".").startswith(keep) and not path.name.endswith(".partial"):
                path.unlink(missing_ok=True)


def _known() -> dict[str, list[str]]:
    with contextlib.suppress(OSError, ValueError):
        known = read_json(SCRATCH / "digests.json")
        if isinstance(known, dict):
            return known
    return {}


def _is_settled(path: Path) -> bool:
    return abs(time.time() - path.stat().st_ctime) > _RACY_S
