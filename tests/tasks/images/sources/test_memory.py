"""The memory of a listing: a bound for each entry, measured on synthetic ones, and a refusal without enough of it."""

from __future__ import annotations

import hashlib
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks import ingest
from tasks.errors import SourceError
from tasks.images.sources import SourceImage, SourceListing, SourcePolicy, archive, folder, s3, table
from tasks.images.sources import policy as policies
from tasks.images.sources.s3 import client as s3_client
from tasks.images.sources.s3.client import Address
from tasks.images.sources.s3.objects import StoredObject
from tasks.images.sources.table import remote
from tasks.workspace import Workspace
from tests.tasks.images.sources.making import make_csv, make_tar, make_zip
from tests.tasks.images.sources.policies import policy
from tests.tasks.steps import Change

ENTRIES = 4_000
KEPT_MB, PEAK_MB = 450, 1_000
"""For a million entries whose paths have 32 characters."""
NAMES = [f"class{number % 20:02}/part{number % 7}/IMG_{number:08}.jpg" for number in range(ENTRIES)]
ADDRESSES = [f"s3://bucket/set/{name}" for name in NAMES]


def stored(client: Any, prefix: Address) -> Iterator[StoredObject]:
    """What a store would list, without a store: the etag of each object is the MD5 of its key."""
    for number, uri in enumerate(sorted(ADDRESSES)):
        etag = hashlib.md5(uri.encode(), usedforsecurity=False).hexdigest()
        yield StoredObject(Address("bucket", uri.removeprefix("s3://bucket/")), f'"{etag}"', 100_000 + number)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (s3, remote):
        monkeypatch.setattr(module, "list_stored", stored)
    for module in (s3, remote, s3_client):
        monkeypatch.setattr(module, "client_for", lambda _: None)


def make_folder(root: Path) -> Path:
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def source(kind: str, root: Path) -> tuple[Callable[[str, SourcePolicy], SourceListing], str]:
    """A source of that kind with all names, and the function that lists it."""
    rows = [("path", "label"), *((name, name.partition("/")[0]) for name in NAMES)]
    empty = ((name, b"") for name in NAMES)
    if kind == "s3":
        return s3.discover, "s3://bucket/set"
    if kind == "table of s3":
        addresses = ((uri, uri.split("/")[4]) for uri in ADDRESSES)
        return table.discover, str(make_csv(root / "t.csv", [("path", "label"), *addresses]))
    if kind == "table":
        return table.discover, str(make_csv(make_folder(root) / "t.csv", rows))
    if kind == "folder":
        return folder.discover, str(make_folder(root))
    return archive.discover, str((make_zip if kind == "zip" else make_tar)(root / f"f.{kind}", empty))


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("kind", ["folder", "s3", "table", "table of s3", "tar", "zip"])
def test_listing_of_a_million_entries_needs_a_gigabyte_at_most(kind: str, tmp_path: Path) -> None:
    discover, uri = source(kind, tmp_path)
    allowed = policy(tmp_path, s3_buckets=("bucket",))
    discover(uri, allowed)  # what is imported and kept once is no part of it
    tracemalloc.start()
    try:
        listing = discover(uri, allowed)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    found = len(listing.images) + len(listing.excluded)
    assert found >= ENTRIES
    assert kept / found < KEPT_MB
    assert peak / found < PEAK_MB


@pytest.mark.usefixtures("store")
def test_table_keeps_only_the_objects_that_its_rows_name(tmp_path: Path) -> None:
    few = [(uri, uri.split("/")[4]) for uri in ADDRESSES[:: ENTRIES // 100]]
    path = str(make_csv(tmp_path / "t.csv", [("path", "label"), *few]))
    allowed = policy(tmp_path, s3_buckets=("bucket",))
    table.discover(path, allowed)
    tracemalloc.start()
    try:
        assert len(table.discover(path, allowed).images) == len(few)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(few) * 5_000
    assert peak / ENTRIES < 100


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("kind", ["s3", "tar"])
def test_listing_is_refused_while_there_is_memory_left(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    discover, uri = source(kind, tmp_path)
    monkeypatch.setattr(policies, "_ENTRIES_BETWEEN_LOOKS", 500)
    monkeypatch.setattr(policies, "available_bytes", lambda: (256 << 20) + 3_000 * policies.BYTES_AN_ENTRY)
    with pytest.raises(SourceError, match=r"more than 3,500 entries, and this machine has too little memory.*0\.3 GB"):
        discover(uri, policy(tmp_path))


class Keys:
    """Reads an image whose bytes are few, and different for each path."""

    def read(self, image: SourceImage) -> bytes:
        return b"BM" + image.path.encode()

    def read_head(self, _image: SourceImage) -> None:
        return None


def test_ingest_holds_less_about_each_entry_than_a_listing_is_refused_for(
    workspace: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listing(*_: object) -> SourceListing:
        keys = Keys()
        return SourceListing.of(
            SourceImage(name, sys.intern(name.partition("/")[0]), None, keys, name, f"{hash(name):032x}:{number}")
            for number, name in enumerate(NAMES)
        )

    monkeypatch.setattr(ingest, "discover", listing)
    settings = change()
    for _ in range(2):  # the first run has its packs in memory, too; the second one imports what this one needs
        ingest.run(settings, Workspace.at(workspace))
    tracemalloc.start()
    try:
        assert ingest.run(settings, Workspace.at(workspace)).reused == ENTRIES
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / ENTRIES < policies.BYTES_AN_ENTRY
