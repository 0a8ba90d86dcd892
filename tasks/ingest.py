"""Stage `ingest`: the source in, packs of original bytes out.

Reads the source named by `source.uri`. Writes `data/raw/`: packs (`tasks.pictures.packs`) and `manifest.parquet`, one
row for everything that was discovered, and `source.json`, what the source is. Only pictures whose bytes are in no
pack are packed; packs that hold bytes which are no longer at the source go, and what else was in them is packed anew.
A killed run goes on after its last whole pack.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import SourceError
from tasks.files import sha256_hex, sweep_temporaries, write_json
from tasks.pictures.manifest import Discovered, write_discovered
from tasks.pictures.packs import index_pack, verify_pack, write_packs
from tasks.pictures.sources import Item, Listing, discover
from tasks.program import run_stage
from tasks.progress import Progress
from tasks.settings import Settings

RAW = "data/raw"


@dataclass(frozen=True)
class Summary:
    discovered: int
    excluded: int
    packed: int
    reused: int

    def __str__(self) -> str:
        return (
            f"{self.discovered} entries discovered, {self.excluded} of them excluded; "
            f"{self.packed} pictures packed, {self.reused} reused"
        )


def run(settings: Settings, workspace: Path) -> Summary:
    """Bring `data/raw` in line with the source.

    Raises:
        SourceError: the source is missing, empty, not understood, or changes while it is read.
    """
    listing = discover(settings.source.uri)
    within, beyond = _limit(listing, settings.source.limit_per_class)
    raw = workspace / RAW
    raw.mkdir(parents=True, exist_ok=True)
    sweep_temporaries(raw)

    keys = _hash(within)
    wanted = set(keys.values())
    have: set[str] = set()
    for pack in sorted(raw.glob("*.tar")):
        keys_inside = index_pack(pack).keys() if verify_pack(pack) else None
        if keys_inside is not None and keys_inside <= wanted:
            have |= keys_inside
        else:
            pack.unlink()

    packed = 0
    pictures = _unpacked(within, keys, have)
    with Progress("ingest", len(wanted), "pictures", done=len(have)) as progress:
        for _, count in write_packs(raw, pictures, settings.ingest.pack_size_mb * 1_000_000):
            packed += count
            progress.advance(count)
    write_json(raw / "source.json", {"uri": settings.source.uri})
    write_discovered(raw, _rows(listing, keys, beyond))
    discovered = len(listing.items) + len(listing.excluded)
    return Summary(discovered, len(listing.excluded) + len(beyond), packed, len(have))


def _limit(listing: Listing, per_class: int | None) -> tuple[list[Item], set[str]]:
    """The items within the limit, and the paths of those beyond; chosen by a hash of the path, so not by its order."""
    if per_class is None:
        return list(listing.items), set()
    chosen: dict[str, int] = {}
    beyond: set[str] = set()
    for item in sorted(listing.items, key=lambda item: hashlib.sha256(item.path.encode()).digest()):
        chosen[item.label] = chosen.get(item.label, 0) + 1
        if chosen[item.label] > per_class:
            beyond.add(item.path)
    return [item for item in listing.items if item.path not in beyond], beyond


def _hash(items: list[Item]) -> dict[str, str]:
    """Path -> SHA-256 of the bytes. Always of the bytes: a file's time and size may lie."""
    return {item.path: sha256_hex(_read(item)) for item in items}


def _unpacked(items: list[Item], keys: dict[str, str], have: set[str]) -> Iterator[tuple[str, bytes]]:
    seen = set(have)
    for item in items:
        key = keys[item.path]
        if key in seen:
            continue
        data = _read(item)
        if sha256_hex(data) != key:
            raise SourceError(f"{item.path} changed while the source was read. Run again when it rests.")
        seen.add(key)
        yield key, data


def _read(item: Item) -> bytes:
    try:
        return item.read()
    except OSError as error:
        raise SourceError(
            f"{item.path} can't be read: {error.strerror or error}. Mend or remove it at the source."
        ) from None


def _rows(listing: Listing, keys: dict[str, str], beyond: set[str]) -> list[Discovered]:
    rows = [
        Discovered(
            item.path, item.label, item.split, keys.get(item.path, ""), "over_limit" if item.path in beyond else None
        )
        for item in listing.items
    ]
    rows += [Discovered(entry.path, "", None, "", entry.reason) for entry in listing.excluded]
    return sorted(rows, key=lambda row: row.path)


def main() -> int:
    return run_stage("ingest", run)


if __name__ == "__main__":
    raise SystemExit(main())
