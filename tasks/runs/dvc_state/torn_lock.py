"""DVC's note of which process reads and writes which files (`.dvc/tmp/rwlock`).

DVC doesn't write it atomically. A kill at the wrong moment leaves it empty or cut, and DVC then refuses every later
command in the folder.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from tasks.workspace import Workspace


def remove_torn_lock(workspace: Workspace) -> None:
    """Remove the note if it can't be read; DVC begins a new one. A note that is just being written stays."""
    note = workspace.folder / ".dvc/tmp/rwlock"
    if _is_whole(note):
        return
    from dvc.lock import LockError, make_lock  # takes a second

    with contextlib.suppress(LockError), make_lock(str(note.with_name("rwlock.lock")), tmp_dir=str(note.parent)):
        if not _is_whole(note):
            note.unlink()


def _is_whole(note: Path) -> bool:
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return isinstance(content, Mapping) and all(isinstance(part, Mapping) for part in content.values())
