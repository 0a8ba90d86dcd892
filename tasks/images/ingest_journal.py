"""What a run that was killed had packed already: (path, version) -> key, one JSON line each, beside the packs.

The manifest says the same for runs that ended. The journal only saves reading (downloads); what it says counts only
where the key is in a whole pack, so a torn last line is harmless.
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
        """(path, version) -> key of what was packed."""
        if not self._path.exists():
            return {}
        entries: dict[tuple[str, str | None], str] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                path, version, key = json.loads(line)
            except ValueError:
                break  # the kill came in the middle of this line
            entries[path, version] = key
        return entries

    def add(self, entries: Iterable[tuple[str, str, str]]) -> None:
        """Note (path, version, key) of packed items; on the disk when this returns."""
        lines = [json.dumps(entry) + "\n" for entry in entries]
        if lines:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())

    def remove(self) -> None:
        """The run ended; its manifest knows all of it."""
        self._path.unlink(missing_ok=True)
