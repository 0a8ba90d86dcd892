"""The memory of listings: bytes for each entry of every kind of source, when it is done and at its peak.

`python -m benchmarks.data.listing [ENTRIES]`. The entries are empty files; those in S3 are invented, without a store.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import sys
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tasks.images.sources import SourceListing, SourcePolicy, archive, folder, s3, table
from tasks.images.sources.s3 import client as s3_client
from tasks.images.sources.s3.client import Address
from tasks.images.sources.s3.objects import StoredObject
from tasks.images.sources.table import remote
from tests.tasks.images.sources.policies import policy

KINDS = ("folder", "s3", "table", "table of s3", "tar", "zip")
PREFIX = "s3://bucket/set/"
Discover = Callable[[str, SourcePolicy], SourceListing]


def names_of(entries: int) -> list[str]:
    """Paths of images in 20 classes."""
    return [f"class{number % 20:02}/part{number % 7}/IMG_{number:08}.jpg" for number in range(entries)]


def make_source(kind: str, root: Path, names: Iterable[str]) -> tuple[Discover, str]:
    """A source of that kind, and the function that lists it."""
    if kind == "s3":
        return s3.discover, PREFIX
    if kind == "table of s3":
        return table.discover, write_table(root / "t.csv", (f"{PREFIX}{name}" for name in names))
    path = root / f"images.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name in names:
                packed.writestr(name, b"")
        return archive.discover, str(path)
    if kind == "tar":
        with tarfile.open(path, "w") as packed_tar:
            for name in names:
                packed_tar.addfile(tarfile.TarInfo(name))
        return archive.discover, str(path)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return (folder.discover, str(root)) if kind == "folder" else (table.discover, write_table(root / "t.csv", names))


def write_table(path: Path, names: Iterable[str]) -> str:
    """A table of these images."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows([name, name.split("/")[-3]] for name in names)
    return str(path)


@contextlib.contextmanager
def invented_store(names: Iterable[str]) -> Iterator[None]:
    """S3 as if a store listed these names below the prefix."""
    keys = sorted(f"{PREFIX}{name}".removeprefix("s3://bucket/") for name in names)

    def listed(_client: Any, _prefix: Address) -> Iterator[StoredObject]:
        for number, key in enumerate(keys):
            etag = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
            yield StoredObject(Address("bucket", key), f'"{etag}"', 100_000 + number)

    with contextlib.ExitStack() as patches:
        for module in (s3, remote):
            patches.enter_context(mock.patch.object(module, "list_stored", listed))
        for module in (s3, remote, s3_client):
            patches.enter_context(mock.patch.object(module, "client_for", return_value=None))
        yield


def measure(discover: Discover, uri: str, allowed: SourcePolicy) -> tuple[SourceListing, int, int]:
    """A listing, the bytes that it holds, and the most bytes that were held at once."""
    discover(uri, allowed)  # what is imported and kept once is no part of it
    tracemalloc.start()
    try:
        listing = discover(uri, allowed)
        return listing, *tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


def main() -> None:
    names = names_of(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
    print("bytes for each entry: held, at the peak")
    for kind in KINDS:
        with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as temporary, invented_store(names):
            discover, uri = make_source(kind, Path(temporary), names)
            _, kept, peak = measure(discover, uri, policy(Path(temporary), s3_buckets=("bucket",)))
        print(f"{kind:12}{kept / len(names):8.0f}{peak / len(names):8.0f}", flush=True)


if __name__ == "__main__":
    main()
