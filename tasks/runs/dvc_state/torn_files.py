"""Files that DVC doesn't write atomically: a kill or a power failure at the wrong moment leaves them empty or cut.

- `.dvc/tmp/rwlock` notes which process reads and writes which files. DVC refuses every command while it is torn.
- `dvc.lock` names the results of all stages. Its last whole version is kept in `.rootstock`, and takes the place of a
  torn one: only the stage that was being noted has to run again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from tasks.files import write_bytes
from tasks.workspace import Workspace

_CONFLICT = b"<<<<<<< "


def repair_torn_files(workspace: Workspace) -> None:
    """Repair both files, unless a process of DVC is just writing them."""
    _remove_torn_note(workspace)
    if not _is_whole_lock(workspace):
        from dvc.lock import make_lock  # takes a second

        temporary = workspace.folder / ".dvc/tmp"
        temporary.mkdir(exist_ok=True)
        with make_lock(str(temporary / "lock"), tmp_dir=str(temporary), wait=True):
            restore_torn_lock(workspace)


def find_torn(workspace: Workspace) -> list[Path]:
    """The torn ones of both files."""
    note = workspace.folder / ".dvc/tmp/rwlock"
    whole = {note: _is_whole_note(note), workspace.lock: _is_whole_lock(workspace)}
    return [path for path, is_whole in whole.items() if not is_whole]


def restore_torn_lock(workspace: Workspace) -> bool:
    """Replace a torn dvc.lock by its last whole version, or remove it if there is none. Returns whether it was torn.

    The caller holds DVC's lock. A file with conflicts of a merge stays: a person has to resolve them.
    """
    if _is_whole_lock(workspace):
        return False
    if workspace.whole_lock.exists():
        write_bytes(workspace.lock, workspace.whole_lock.read_bytes())
        result = "its last whole version is restored"
    else:
        workspace.lock.unlink()
        result = "it is removed, because no earlier version is kept; DVC's run cache has the results"
    print(f"{workspace.lock} was cut while it was written (by a kill or a power failure): {result}.", flush=True)
    return True


def _is_whole_lock(workspace: Workspace) -> bool:
    """Whether dvc.lock is absent or whole. A new whole version is kept."""
    try:
        content = workspace.lock.read_bytes()
    except FileNotFoundError:
        return True
    if workspace.whole_lock.exists() and content == workspace.whole_lock.read_bytes():
        return True
    if _CONFLICT in content:
        return True
    if not _is_lock(content):
        return False
    write_bytes(workspace.whole_lock, content)
    return True


def _is_lock(content: bytes) -> bool:
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(parse_yaml(content.decode(), "dvc.lock"))
    except (YAMLFileCorruptedError, UnicodeDecodeError, Invalid):
        return False
    return content.endswith(b"\n")  # the last digest may be cut


def _remove_torn_note(workspace: Workspace) -> None:
    """Remove the note of readers and writers if it can't be read; DVC begins a new one."""
    note = workspace.folder / ".dvc/tmp/rwlock"
    if _is_whole_note(note):
        return
    from dvc.lock import LockError, make_lock

    with contextlib.suppress(LockError), make_lock(str(note.with_name("rwlock.lock")), tmp_dir=str(note.parent)):
        if not _is_whole_note(note):
            note.unlink()


def _is_whole_note(note: Path) -> bool:
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return isinstance(content, Mapping) and all(isinstance(part, Mapping) for part in content.values())
