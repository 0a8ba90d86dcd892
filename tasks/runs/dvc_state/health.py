"""The health of what DVC keeps: torn files, objects in the cache, the remote."""

from __future__ import annotations

import contextlib
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.runs.dvc_state.cache import has_its_hash
from tasks.runs.dvc_state.torn_files import find_torn, repair_torn_files
from tasks.runs.findings import MEND, Finding
from tasks.workspace import Workspace

SAMPLE = 50
_SAMPLE_BYTES = 4_000_000_000


def check_torn_files(workspace: Workspace) -> Iterator[Finding]:
    """Files of DVC that a kill has cut off."""

    def repair() -> str:
        repair_torn_files(workspace)
        return "the last whole version is back."

    torn = find_torn(workspace)
    if torn:
        yield Finding(f"{', '.join(map(str, torn))} was cut while it was written.", MEND, repair)
    else:
        yield Finding("DVC's own files are whole")


def check_cache(workspace: Workspace, seed: int) -> Iterator[Finding]:
    """Hash some of the objects that dvc.lock names, other ones with each seed, and at most 4 GB.

    DVC trusts what is in its cache. A damaged object that is removed is fetched or computed again when it is needed.
    """
    with _looked_at(workspace) as repository:
        files = sorted(_objects(repository))
    here = [file for file in files if file.exists()]
    random.Random(seed).shuffle(here)  # noqa: S311 - no secret
    looked, size, damaged = 0, 0, []
    for file in here[:SAMPLE]:
        size += file.stat().st_size
        if looked and size > _SAMPLE_BYTES:
            break
        looked += 1
        if not has_its_hash(file):
            damaged.append(file)
    if not files:
        yield Finding("dvc.lock names no results yet")
    elif damaged:

        def repair() -> str:
            for file in damaged:
                file.unlink(missing_ok=True)
            return "removed; DVC fetches or computes them again when they are needed."

        names = ", ".join(map(str, damaged[:3]))
        yield Finding(f"{len(damaged)} of {looked} sampled objects in DVC's cache are damaged: {names}.", MEND, repair)
    else:
        missing = f"; {len(files) - len(here)} of {len(files)} objects are not here" if len(here) < len(files) else ""
        yield Finding(f"{looked} sampled objects of {len(here)} have their checksums{missing}")


def check_remote(workspace: Workspace) -> Iterator[Finding]:
    """Write, read and remove a small object on DVC's default remote."""
    with _looked_at(workspace) as repository:
        if not repository.config["core"].get("remote"):
            yield Finding("DVC has no default remote, so this clone's cache is the only copy of the results")
            return
        remote = repository.cloud.get_remote()
    fs, data = remote.fs, uuid.uuid4().bytes
    path = fs.join(remote.path, f"rootstock-doctor-{data.hex()}")
    try:
        fs.makedirs(remote.path, exist_ok=True)
        fs.pipe_file(path, data)
        try:
            whole = fs.cat_file(path) == data
        finally:
            fs.rm_file(path)
    except Exception as error:  # noqa: BLE001 - each store raises errors of its own
        said = " ".join(str(error).split())[:300]
        yield Finding(f"DVC's remote {remote.name} can't be used ({type(error).__name__}: {said}).", _access(remote))
        return
    if whole:
        yield Finding(f"DVC's remote {remote.name} can be written, read and cleaned")
    else:
        yield Finding(f"DVC's remote {remote.name} returns other bytes than were written.", _access(remote))


@contextlib.contextmanager
def _looked_at(workspace: Workspace) -> Iterator[Any]:
    """DVC's view of the workspace without its lock, which a run may hold for long: nothing is changed by it."""
    from dvc.repo import Repo  # takes a second

    with Repo(str(workspace.folder)) as repository:
        yield repository


def _access(remote: Any) -> str:
    return f"dvc remote list; then check its address, its credentials and the network ({remote.name})"


def remote_endpoint(workspace: Workspace) -> str | None:
    """The HTTP address of DVC's default remote, whose clock can be read; None if it has none."""
    with _looked_at(workspace) as repository:
        name = repository.config["core"].get("remote")
        settings = repository.config["remote"][name] if name else {}
    address = settings.get("endpointurl") or settings.get("url", "")
    if address.startswith(("http://", "https://")):
        return str(address)
    return "https://s3.amazonaws.com" if address.startswith("s3://") else None


def _objects(repository: Any) -> Iterator[Path]:
    """The files in the cache of all outputs that dvc.lock names, whether they are there or not."""
    seen: set[str] = set()
    for out in repository.index.outs:
        if not (out.use_cache and out.hash_info):
            continue
        names = {out.hash_info.value}
        if out.is_dir_checksum and Path(out.cache.oid_to_path(out.hash_info.value)).exists():
            content = out.get_obj()
            names |= {hash_info.value for _, _, hash_info in content} if content else set()
        for name in names - seen:
            yield Path(out.cache.oid_to_path(name))
        seen |= names
