"""What DVC's cache holds that no kept version needs. DVC's own collector (dvc_data's `gc`) deletes it.

`dvc gc` itself takes only one revision, or all branches and tags with the same number of commits, and with `--projects`
it reads each of them again for every folder. So the kept versions are read here, by DVC's index and from dvc.lock,
which may name outputs that the index doesn't know: those of strategies that aren't chosen now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import RunError
from tasks.files import read_json, write_json
from tasks.runs.dvc_state.repository import open_repository
from tasks.runs.git import read_blob
from tasks.workspace import LOCK, Workspace

_DIRECTORY = ".dir"
_RECORD_VERSION = 1


@dataclass(frozen=True)
class Garbage:
    """Files of DVC's cache that nothing needs.

    Attributes:
        objects: how many they are.
        size_mb: their size, MB.
    """

    objects: int
    size_mb: float


def collect_garbage(
    workspace: Workspace, commits: Sequence[str], unfinished: Iterable[Workspace], *, dry: bool
) -> Garbage:
    """Delete what neither the commits need nor the working trees, from the cache of a clone.

    Args:
        workspace: a clone; its own working tree counts too.
        commits: full names of the kept commits.
        unfinished: the folders of unfinished runs.
        dry: only measure.

    Raises:
        RunError: a kept version can't be read; nothing is deleted then.
    """
    with _opened(workspace) as repository:
        wanted = _wanted(workspace, repository, commits, unfinished)
        stores = {id(store): store for _, store in repository.cache.by_scheme() if store is not None}.values()
        found = [_collect(store, wanted, dry) for store in stores]
        if not dry:
            _drop_useless_notes(repository)
    return Garbage(sum(one.objects for one in found), sum(one.size_mb for one in found))


def collect_remote(workspace: Workspace, commits: Sequence[str], unfinished: Iterable[Workspace], *, dry: bool) -> int:
    """Delete the same from DVC's default remote. Returns the number of files.

    Raises:
        RunError: there is no remote, or the files of a kept version aren't known; nothing is deleted then.
    """
    from dvc_data.hashfile.db import get_index
    from dvc_data.hashfile.gc import gc

    with _opened(workspace) as repository:
        remote = repository.cloud.get_remote_odb(None, "gc -c", hash_name="md5")
        local = repository.cache.local
        wanted = _wanted(workspace, repository, commits, unfinished)
        listed = {value for value in wanted if value.endswith(_DIRECTORY)}
        inside = {**_listings(remote, listed), **_listings(local, listed)}
        if lacking := sorted(listed - inside.keys()):
            raise RunError(
                f"Nothing was deleted on the remote: the listing {lacking[0]} of a kept version is neither in the "
                "cache nor there. Push it from the clone where it was made (dvc push), or delete the branch or tag."
            )
        removed: int = gc(remote, _as_hashes(remote, wanted.union(*inside.values())), dry=dry)
        if removed and not dry:
            get_index(remote).clear()  # DVC's note of what the remote holds
    return removed


def _wanted(workspace: Workspace, repository: Any, commits: Sequence[str], unfinished: Iterable[Workspace]) -> set[str]:
    """The hashes of all outputs that are needed."""
    wanted = _outputs_here(repository).union(*_outputs_of_commits(workspace, repository, commits).values())
    for one in (workspace, *unfinished):
        wanted |= _outputs_of_lock(_read(one.whole_lock)) | _outputs_of_lock(_read(one.lock))
    return wanted


@contextmanager
def _opened(workspace: Workspace) -> Iterator[Any]:
    from dvc.exceptions import DvcException

    try:
        with open_repository(workspace) as repository:
            yield repository
    except (DvcException, yaml.YAMLError) as error:
        raise RunError(f"Nothing was deleted, because it isn't known what is needed. DVC says: {error}") from error


def _outputs_of_commits(workspace: Workspace, repository: Any, commits: Sequence[str]) -> dict[str, list[str]]:
    """The outputs of each commit. They never change, so they are noted, and each commit is read once."""
    record = workspace.tidy_record
    known = _known_outputs(record)
    new = list(dict.fromkeys(commit for commit in commits if commit not in known))
    if new:
        for commit in repository.brancher(revs=new, workspace=False, sha_only=True):
            outputs = _outputs_here(repository) | _outputs_of_lock(read_blob(workspace.clone, commit, LOCK))
            known[commit] = sorted(outputs)
    kept = {commit: known.get(commit, []) for commit in commits}  # the others hold no DVC project
    if new or kept.keys() != known.keys():
        write_json(record, {"version": _RECORD_VERSION, "outputs": kept})
    return kept


def _known_outputs(record: Path) -> dict[str, list[str]]:
    try:
        noted = read_json(record)
        return dict(noted["outputs"]) if noted["version"] == _RECORD_VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _outputs_here(repository: Any) -> set[str]:
    """The hashes of all outputs of the version that the repository shows."""
    outs = [*repository.index.outs]
    return {out.hash_info.value for out in outs if out.hash_info}


def _outputs_of_lock(content: bytes | None) -> set[str]:
    stages = (yaml.load(content, yaml.CSafeLoader) or {}).get("stages", {}) if content else {}
    return _hashes_of(stages.values())


def _hashes_of(entries: Iterable[Any]) -> set[str]:
    return {str(out["md5"]) for entry in entries for out in entry.get("outs", ()) if "md5" in out}


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _collect(store: Any, wanted: set[str], dry: bool) -> Garbage:
    from dvc_data.hashfile.gc import gc

    names = wanted.union(*_listings(store, wanted).values())
    sizes = [_size(store.oid_to_path(name)) for name in store.all() if name not in names]
    if not dry:
        gc(store, _as_hashes(store, names))
    return Garbage(len(sizes), sum(sizes) / 1e6)


def _as_hashes(store: Any, names: Iterable[str]) -> set[Any]:
    from dvc_data.hashfile.hash_info import HashInfo

    return {HashInfo(store.hash_name, name) for name in names}


def _listings(store: Any, wanted: set[str]) -> dict[str, set[str]]:
    """The files of each wanted directory, unless its listing is missing or damaged: then DVC can't use them."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    found = {}
    for value in wanted:
        if value.endswith(_DIRECTORY):
            with suppress(FileNotFoundError, ObjectFormatError):
                tree = Tree.load(store, HashInfo(store.hash_name, value))
                found[value] = {info.value for _, _, info in tree}
    return found


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return 0


def _drop_useless_notes(repository: Any) -> None:
    """Remove entries of DVC's run cache whose outputs are gone: they would hide later runs with the same inputs."""
    store = repository.cache.local
    for note in Path(repository.stage_cache.cache_dir).glob("*/*/*"):
        try:
            entry = yaml.load(note.read_bytes(), yaml.CSafeLoader)
            useful = all(store.exists(value) for value in _hashes_of([entry]))
        except (yaml.YAMLError, AttributeError, TypeError):
            useful = False
        if not useful:
            note.unlink()
            for folder in (note.parent, note.parent.parent):
                if not any(folder.iterdir()):
                    folder.rmdir()
