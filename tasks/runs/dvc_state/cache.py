"""DVC's cache: one for all folders of a clone, and what disks have damaged in it removed before a stage reads it."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path
from typing import Any

from tasks.runs.dvc_state.dependencies import find_dependencies
from tasks.runs.dvc_state.repository import find_stage, open_repository
from tasks.workspace import Workspace


def share_cache(workspace: Workspace) -> None:
    """Let DVC in a deployed run's own folder use the clone's cache, remotes and credentials."""
    from dvc.config import Config

    of_clone, here = workspace.clone / ".dvc", workspace.folder / ".dvc"
    settings = Config(dvc_dir=str(of_clone))
    with contextlib.suppress(FileNotFoundError):
        shutil.copy(of_clone / "config.local", here / "config.local")
    with Config(dvc_dir=str(here), validate=False).edit("local") as local:
        local["cache"]["dir"] = settings["cache"].get("dir") or str((of_clone / "cache").resolve())
        for name, remote in settings["remote"].items():
            if Path(remote["url"]).is_absolute():  # a folder, which may have been given relative to the clone
                local["remote"].setdefault(name, {})["url"] = remote["url"]


def remove_damaged(workspace: Workspace, name: str) -> list[str]:
    """Remove from the cache what a stage would be given and isn't the bytes of its hash; gives the outputs' paths.

    DVC itself believes what is read-only in its cache, as all of it is, and would go on with wrong bytes.
    """
    with open_repository(workspace) as repository:
        stage = find_stage(repository, name)
        single, gathered = find_dependencies(repository, stage)
        wanted = [(one.path, one.out, one.dep if one.is_part else one.out) for one in [*single, *gathered]]
        wanted += [(out.def_path, out, out) for out in stage.outs if out.persist and out.hash_info]
        lacking = {path: (out, part) for path, out, part in wanted if not part.exists and not out.changed_cache()}
        return [path for path, (out, part) in lacking.items() if _remove_damaged(out, part.fs_path)]


def _remove_damaged(out: Any, path: str) -> bool:
    """Remove the objects of an output, or of a part of it, that don't have their hash; tells whether there were any."""
    content = out.get_obj(filter_info=path) if out.is_dir_checksum else out.get_obj()
    names = {content.hash_info.value} if content else set()
    names |= {hash_info.value for _, _, hash_info in content} if content and content.hash_info.isdir else set()
    files = map(Path, map(out.cache.oid_to_path, names))
    damaged = [file for file in files if file.exists() and not _has_its_hash(file)]
    for file in damaged:
        file.unlink()
    return bool(damaged)


def _has_its_hash(file: Path) -> bool:
    """Whether a file of the cache has the MD5 that its name gives."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return digest == f"{file.parent.name}{file.name}".removesuffix(".dir")
