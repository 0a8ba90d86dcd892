"""What runs leave in a cache, and what of it is still there after tidying."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tasks.runs.tidying import (
    Tidied,
    tidy,
)
from tasks.workspace import Workspace
from tests.tasks.runs.repository import deployed, working


def file_in_cache(root: Path, content: str, suffix: str = "") -> Path:
    name = hashlib.md5(content.encode(), usedforsecurity=False).hexdigest() + suffix
    path = root / ".dvc/cache/files/md5" / name[:2] / name[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def digest_of(file: Path) -> str:
    return file.parent.name + file.name


def folder_in_cache(root: Path, content: str) -> list[Path]:
    """A directory with one file, as DVC keeps it: the listing, then the file."""
    file = file_in_cache(root, content)
    listing = json.dumps([{"md5": digest_of(file), "relpath": "file"}])
    return [file_in_cache(root, listing, ".dir"), file]


def lock_of(listing: Path, stage: str = "count") -> str:
    """A dvc.lock in which the stage has this output."""
    out = f"{{path: out/{stage}, hash: md5, md5: {digest_of(listing)}, size: 1, nfiles: 1}}"
    return f"schema: '2.0'\nstages:\n  {stage}:\n    cmd: python add.py {stage}\n    outs: [{out}]\n"


def night(root: Path, content: str, name: str = "nightly", stage: str = "count") -> list[Path]:
    """A run that makes one output; gives its files in the cache."""
    made = folder_in_cache(root, content)
    run = deployed(root, [], content[:20])
    with working(type(run)(run.clone, name, run.commit, run.title, run.say)) as folder:
        (folder / "dvc.lock").write_text(lock_of(made[0], stage))
    return made


def tidied(root: Path, kept_runs: int = 2, *, dry: bool = False) -> Tidied:
    return tidy(Workspace.at(root), kept_runs, dry=dry)


def are_kept(files: list[Path]) -> bool:
    """Whether all files are there. Some may not be there while others are."""
    found = {file.exists() for file in files}
    assert len(found) == 1, files
    return found.pop()
