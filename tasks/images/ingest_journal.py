"""The journal of a killed run: (path, version) -> key of each packed image, one JSON line each, beside the packs.

The manifest holds the same for runs that ended. The journal only saves reads (downloads). An entry counts only if its
key is in a whole pack, so an incomplete last line is harmless.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path


class IngestJournal:
    """The journal of one workspace's `ingest`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[tuple[str, str | None], str]:
        """(path, version) -> key of each packed image."""
        if not self._path.exists():
            return {}
        entries: dict[tuple[str, str | None], str] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                path, version, key = json.loads(line)
            except ValueError:
                break  # the run was killed while it wrote this line
            entries[path, version] = key
        return entries

    def add(self, entries: Iterable[tuple[str, str, str]]) -> None:
        """Add (path, version, key) of packed images; they are on the disk when this returns."""
        lines = [json.dumps(entry) + "\n" for entry in entries]
        if lines:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())

    def remove(self) -> None:
        """Remove the journal after the run ended, because the manifest holds everything."""
        self._path.unlink(missing_ok=True)
