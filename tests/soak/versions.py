"""Checks every version that the nights committed: its objects, its splits, and git's own check."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import yaml

Fetch = Callable[[str], bytes | None]
"""Reads an object by its digest from the cache or the remote; None if it is in neither."""


@dataclass(frozen=True)
class Split:
    """Where one image was in one version."""

    key: str
    label: str
    split: str


@dataclass
class Store:
    """All objects of a project: in DVC's cache, else on its remote.

    Attributes:
        damaged: digests of objects whose bytes don't match.
        only_remote, only_local: how many objects are in one place only.
    """

    cache: Path
    remote: Fetch
    damaged: set[str] = field(default_factory=set)
    _known: dict[str, bool] = field(default_factory=dict)

    def read(self, digest: str) -> bytes | None:
        """The object's bytes; None if it is nowhere. Its digest may end in `.dir`."""
        file = self.cache / digest[:2] / digest[2:]
        data = file.read_bytes() if file.exists() else None
        if data is not None and _matches(data, digest):
            return data
        if data is not None:
            self.damaged.add(digest)
        data = self.remote(digest)
        if data is not None and not _matches(data, digest):
            self.damaged.add(digest)
            return None
        return data

    def has(self, digest: str) -> bool:
        if digest not in self._known:
            self._known[digest] = self.read(digest) is not None
        return self._known[digest]


def _matches(data: bytes, digest: str) -> bool:
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == digest.removesuffix(".dir")


def outputs(lock: str) -> dict[str, str]:
    """Path -> digest of all outputs in a dvc.lock."""
    stages = yaml.safe_load(lock)["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", ())}


def objects(store: Store, digest: str) -> Iterator[tuple[str, str]]:
    """Digest and relative path of an output's objects; that of a folder comes first."""
    yield digest, ""
    if digest.endswith(".dir"):
        listed = store.read(digest)
        for entry in json.loads(listed) if listed else ():
            yield entry["md5"], entry["relpath"]


def missing(store: Store, lock: str) -> list[str]:
    """The objects of a version that are nowhere, or damaged everywhere."""
    return [
        f"{path}/{part} ({digest})" if part else f"{path} ({digest})"
        for path, output in outputs(lock).items()
        for digest, part in objects(store, output)
        if not store.has(digest)
    ]


def read_file(store: Store, lock: str, name: str) -> bytes | None:
    """The bytes of one file of a version, such as data/prepared/examples.parquet."""
    for path, output in outputs(lock).items():
        if name.startswith(f"{path}/"):
            inside = name.removeprefix(f"{path}/")
            found = [digest for digest, part in objects(store, output) if part == inside]
            return store.read(found[0]) if found else None
    return None


def splits(store: Store, lock: str) -> list[Split]:
    data = read_file(store, lock, "data/prepared/examples.parquet")
    rows = pq.read_table(io.BytesIO(data)).to_pylist() if data else []
    return [Split(row["key"], row["label"], row["split"]) for row in rows]


def moved(versions: Sequence[tuple[str, Sequence[Split]]]) -> list[str]:
    """Images that changed their split from one version to the next, in words; versions go from old to new."""
    found = []
    before: Mapping[str, str] = {}
    for name, rows in versions:
        now = {row.key: row.split for row in rows}
        changed = [key for key in now.keys() & before.keys() if now[key] != before[key]]
        found += [f"{name}: {key[:12]} moved from {before[key]} to {now[key]}" for key in sorted(changed)]
        before = now
    return found


def forgotten(tips: Sequence[str], history: Sequence[str], destroyed: Sequence[str]) -> list[str]:
    """Commits that once were the tip of the branch, and are in its history no more, though no fault emptied them."""
    return [tip for tip in tips if tip not in history and not any(tip.startswith(one) for one in destroyed)]


def fsck(clone: Path) -> list[str]:
    """What git finds broken in a clone; unreachable objects are none of it."""
    command = ["git", "fsck", "--full", "--no-dangling", "--no-progress"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.strip()] if done.returncode else []
