"""The memory of a listing: a bound for each entry, measured on synthetic ones, and a refusal without enough of it."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.data.listing import KINDS, PREFIX, invented_store, make_source, measure, names_of, write_table
from tasks import ingest
from tasks.errors import SourceError
from tasks.images.sources import SourceImage, SourceListing, table
from tasks.images.sources import policy as policies
from tasks.workspace import Workspace
from tests.tasks.images.sources.policies import policy
from tests.tasks.steps import Change

ENTRIES = 3_000
KEPT_MB, PEAK_MB = 450, 1_000
"""For a million entries whose paths have 32 characters."""
NAMES = names_of(ENTRIES)


@pytest.fixture(autouse=True)
def store() -> Iterator[None]:
    with invented_store(NAMES):
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_listing_of_a_million_entries_needs_a_gigabyte_at_most(kind: str, tmp_path: Path) -> None:
    discover, uri = make_source(kind, tmp_path, NAMES)
    listing, kept, peak = measure(discover, uri, policy(tmp_path, s3_buckets=("bucket",)))
    found = len(listing.images) + len(listing.excluded)
    assert found >= ENTRIES
    assert kept / found < KEPT_MB
    assert peak / found < PEAK_MB


def test_table_keeps_only_the_objects_that_its_rows_name(tmp_path: Path) -> None:
    few = [f"{PREFIX}{name}" for name in NAMES[:: ENTRIES // 100]]
    path = write_table(tmp_path / "t.csv", few)
    listing, _, peak = measure(table.discover, path, policy(tmp_path, s3_buckets=("bucket",)))
    assert [image.path for image in listing.images] == sorted(few)
    assert peak < len(few) * 5_000


@pytest.mark.parametrize("kind", ["s3", "tar"])
def test_listing_is_refused_while_there_is_memory_left(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    discover, uri = make_source(kind, tmp_path, NAMES)
    monkeypatch.setattr(policies, "_ENTRIES_BETWEEN_LOOKS", 500)
    monkeypatch.setattr(policies, "available_bytes", lambda: (256 << 20) + 2_000 * policies.BYTES_AN_ENTRY)
    with pytest.raises(SourceError, match=r"more than 2,500 entries, and this machine has too little memory.*0\.3 GB"):
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
