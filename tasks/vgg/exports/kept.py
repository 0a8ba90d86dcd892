"""What the export keeps in the clone, so that a new model repeats little: files by a key of all that they depend on.

Every file's SHA-256 is checked on reading. What is missing or damaged is computed again.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tasks.files import atomic_folder, fingerprint, read_json, sha256_hex, sweep_temporaries, write_json

_SUMS = "sha256.json"
_MOST = 3
"""Kept entries of each kind."""
_PACKAGES = ("tensorflow", "tensorflow-cpu", "flatbuffers", "protobuf", "numpy", "pillow", "ncnn")

Files = Mapping[str, bytes]


class Kept:
    """A folder with entries of several kinds.

    An entry's facts are JSON: all that it depends on except code, packages and kind of machine, which are always part
    of its key. New entries are written last, by `write`: when the checks have found no fault with them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._new: dict[str, Files] = {}

    def find(self, kind: str, facts: Mapping[str, Any]) -> Files | None:
        """The files of an earlier run, or None."""
        entry = self._folder / _name(kind, facts)
        try:
            sums = read_json(entry / _SUMS)
            files = {name: (entry / name).read_bytes() for name in sums}
            if any(sha256_hex(content) != sums[name] for name, content in files.items()):
                return None
            os.utime(entry)  # so that the oldest is the one that wasn't used for the longest time
        except (OSError, ValueError, TypeError):
            return None
        return files

    def add(self, kind: str, facts: Mapping[str, Any], files: Files) -> None:
        """Remember the files of a new entry."""
        self._new[_name(kind, facts)] = files

    def write(self) -> None:
        """Write the new entries, each in the place of a damaged one, and delete the oldest of their kinds.

        A folder that can't be written, such as that of a full disk, is told and is no failure.
        """
        try:
            self._write()
        except OSError as error:
            reason = f"{self._folder} can't be written: {error.strerror}"
            print(f"export: The next export starts anew, because {reason}.", file=sys.stderr, flush=True)

    def _write(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(self._folder)
        for name, files in self._new.items():
            with atomic_folder(self._folder / name) as new:
                for path, content in files.items():
                    (new / path).parent.mkdir(parents=True, exist_ok=True)
                    (new / path).write_bytes(content)
                write_json(new / _SUMS, {path: sha256_hex(content) for path, content in files.items()})
            for old in self._by_age(name.split("-")[0])[:-_MOST]:
                shutil.rmtree(old, ignore_errors=True)

    def clear(self) -> None:
        """Delete all entries, because one of them may be the reason of a failure."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _by_age(self, kind: str) -> list[Path]:
        ages = {}
        for entry in self._folder.glob(f"{kind}-*"):
            with suppress(FileNotFoundError):  # another run deletes old ones, too
                ages[entry] = entry.stat().st_mtime_ns
        return sorted(ages, key=ages.__getitem__)


def _name(kind: str, facts: Mapping[str, Any]) -> str:
    everything = {**facts, "code": _code_sha256(), "packages": _versions(), "machine": platform.machine()}
    return f"{kind}-{fingerprint(everything)}"


@cache
def _code_sha256() -> str:
    """Of the package `tasks`: more than what is needed, so that nothing is forgotten."""
    root = Path(__file__).parents[2]
    sha256 = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        sha256.update(f"{path.relative_to(root)}\0{sha256_hex(path.read_bytes())}\n".encode())
    return sha256.hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
