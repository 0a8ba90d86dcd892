"""DVC's cache: all folders of a clone share it, and damaged files in it are removed before a stage reads them."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tasks.runs.dvc_state.dependencies import find_dependencies
from tasks.runs.dvc_state.repository import find_stage, open_repository
from tasks.workspace import Workspace


def share_cache(workspace: Workspace) -> None:
    """Make DVC in a deployed run's folder use the clone's cache, remotes and credentials.

    What DVC notes about the folder goes with the folder. By default it would stay in /var/tmp for ever.
    """
    from dvc.config import Config

    of_clone, here = workspace.clone / ".dvc", workspace.folder / ".dvc"
    settings = Config(dvc_dir=str(of_clone))
    with contextlib.suppress(FileNotFoundError):
        shutil.copy(of_clone / "config.local", here / "config.local")
    with Config(dvc_dir=str(here), validate=False).edit("local") as local:
        local["core"]["site_cache_dir"] = str((here / "tmp/site").resolve())
        local["cache"]["dir"] = settings["cache"].get("dir") or str((of_clone / "cache").resolve())
        for name, remote in settings["remote"].items():
            if Path(remote["url"]).is_absolute():  # a folder; its path in the clone may be relative
                local["remote"].setdefault(name, {})["url"] = remote["url"]


def link_to_cache(workspace: Workspace) -> None:
    """Let outputs in a folder be hard links to the cache, and use the clone's remotes: an old commit may name none.

    Both whatever the settings say; the files are only read there.
    """
    from dvc.config import Config

    of_clone = Config(dvc_dir=str(workspace.clone / ".dvc"))
    with Config(dvc_dir=str(workspace.folder / ".dvc"), validate=False).edit("local") as local:
        local["cache"]["type"] = "hardlink,copy"
        if "remote" in of_clone["core"]:
            local["core"]["remote"] = of_clone["core"]["remote"]
            local["remote"] |= of_clone["remote"]


def cache_folder(workspace: Workspace) -> Path:
    """DVC's cache of a workspace; it may not exist yet."""
    from dvc.config import Config

    here = workspace.folder / ".dvc"
    return Path(Config(dvc_dir=str(here))["cache"].get("dir") or here / "cache").resolve()


def shares_blocks(folder: Path, cache: Path) -> bool:
    """Whether a file in a folder and its copy in the cache take their space once, as on Btrfs and XFS."""
    from dvc_objects.fs.system import reflink

    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        one = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder))
        other = stack.enter_context(tempfile.TemporaryDirectory(dir=cache))
        reflink(one.name, f"{other}/copy")  # type: ignore[no-untyped-call]
        return True
    return False


def has_default_remote(clone: Path, commit: str) -> bool:
    """Whether DVC has a default remote in a run of a commit: by the commit, the clone's own settings or the user's."""
    from dvc.config import Config
    from dvc.fs import GitFileSystem

    committed = GitFileSystem(str(clone), rev=commit)
    return "remote" in Config(dvc_dir=".dvc", local_dvc_dir=str(clone / ".dvc"), fs=committed)["core"]


def remove_damaged(workspace: Workspace, name: str) -> list[str]:
    """Remove a stage's inputs from the cache if their bytes don't match their hashes. Returns the outputs' paths.

    DVC itself trusts read-only files in its cache, and all of them are read-only, so it would use wrong bytes.
    """
    with open_repository(workspace) as repository:
        stage = find_stage(repository, name)
        single, gathered = find_dependencies(repository, stage)
        wanted = [(one.path, one.out, one.dep if one.is_part else one.out) for one in [*single, *gathered]]
        wanted += [(out.def_path, out, out) for out in stage.outs if out.persist and out.hash_info]
        lacking = {path: (out, part) for path, out, part in wanted if not part.exists and not out.changed_cache()}
        return [path for path, (out, part) in lacking.items() if _remove_damaged(out, part.fs_path)]


def _remove_damaged(out: Any, path: str) -> bool:
    """Remove damaged objects of an output, or of a part of it. Returns whether there were any."""
    content = out.get_obj(filter_info=path) if out.is_dir_checksum else out.get_obj()
    names = {content.hash_info.value} if content else set()
    names |= {hash_info.value for _, _, hash_info in content} if content and content.hash_info.isdir else set()
    files = map(Path, map(out.cache.oid_to_path, names))
    damaged = [file for file in files if file.exists() and not has_its_hash(file)]
    for file in damaged:
        file.unlink()
    return bool(damaged)


def has_its_hash(file: Path) -> bool:
    """Whether a file of the cache has the MD5 in its name."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return digest == f"{file.parent.name}{file.name}".removesuffix(".dir")
