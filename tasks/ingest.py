"""Stage `ingest`: the source in, packs of original bytes out.

Reads the source `source.uri`. Writes `data/raw/`: packs (`tasks.images.packs`), `manifest.parquet` with one row for
every entry of the source, and `source.json`, which describes the source. An image with the same version as in the last
run isn't read again. An image without a version is read again, because only its bytes show whether it changed. What is
no image by its first bytes (`tasks.images.signatures`) is refused and not packed. An image that changed or disappeared
after the listing, or is damaged at the source, is refused too, without a version, so that the next run reads it. Bytes
that are in no pack are packed. Packs with bytes that are no longer at the source are deleted, after the other bytes in
them are copied. A killed run continues after its last whole pack.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.errors import TransientError
from tasks.files import sha256_hex, sweep_temporaries, write_json
from tasks.images.ingest_journal import IngestJournal
from tasks.images.manifest import Discovered, previous_discovered, write_discovered
from tasks.images.packs import PackEntry, index_pack, read_image, verify_pack, write_packs
from tasks.images.reason_codes import PASSING, Refused
from tasks.images.sources import SourceImage, SourceListing, SourcePolicy, discover
from tasks.images.sources.reading import read_ahead
from tasks.parallel import on_all_cores
from tasks.program import run_stage
from tasks.progress import Progress
from tasks.settings import Settings
from tasks.workspace import Workspace

MAX_SMALL_PACKS = 16
"""When more packs than this are less than half full, they are joined."""
MAX_LOST_SHARE = 0.2
"""The run stops if more of the images than this change or disappear after the listing."""
_FEW = 20  # so many may do so before a share says anything


@dataclass(frozen=True)
class Summary:
    discovered: int
    excluded: int
    refused: int
    packed: int
    reused: int

    def __str__(self) -> str:
        return (
            f"{self.discovered} entries discovered, {self.excluded} of them excluded, {self.refused} refused; "
            f"{self.packed} images packed, {self.reused} reused"
        )


def run(settings: Settings, workspace: Workspace) -> Summary:
    """Bring `data/raw` in line with the source.

    Raises:
        SourceError: the source is missing, empty or not understood, or an image can't be read.
        TransientError: the source doesn't answer, or too many images change or disappear after they are listed.
    """
    listing = discover(settings.source.uri, SourcePolicy.of(settings, workspace))
    within, beyond = _limit(listing, settings.source.limit_per_class)
    raw = workspace.raw
    raw.mkdir(parents=True, exist_ok=True)
    sweep_temporaries(raw)
    packs = _whole_packs(raw)
    have = {key for places in packs.values() for key in places}
    journal = IngestJournal(workspace.ingest_journal)
    found = _known(within, raw, journal, have)
    pack_size = settings.ingest.pack_size_mb * 1_000_000

    packed = 0
    with Progress("ingest", len(within), "images", done=len(found)) as progress:
        read: list[tuple[SourceImage, str]] = []
        new = _read_new(within, found, have, read, settings.ingest.readers, progress)
        for _, count in write_packs(raw, new, pack_size):
            packed += count
            journal.add((image.path, image.version, key) for image, key in read if image.version is not None)
            read.clear()  # a pack is written as soon as it is full, so these images are in it
    keys = {key for key in found.values() if isinstance(key, str)}
    _drop_unwanted(raw, packs, keys, pack_size)
    write_json(raw / "source.json", {**listing.about, "uri": settings.source.uri})
    write_discovered(raw, _rows(listing, found, beyond))
    journal.remove()
    discovered = len(listing.images) + len(listing.excluded)
    refused = sum(isinstance(one, Refused) for one in found.values())
    return Summary(discovered, len(listing.excluded) + len(beyond), refused, packed, len(keys) - packed)


def is_listing_unchanged(listing: SourceListing, per_class: int | None, before: list[Discovered]) -> bool:
    """Whether `run` would write the same table as `before`, assuming that no bytes changed."""

    def without_bytes(rows: list[Discovered]) -> list[Discovered]:
        return [replace(row, key="", version=None, refused=None, detail=None) for row in rows]

    _, beyond = _limit(listing, per_class)
    return without_bytes(_rows(listing, {}, beyond)) == without_bytes(before)


def _whole_packs(raw: Path) -> dict[Path, dict[str, PackEntry]]:
    """The undamaged packs and their entries. Damaged packs are deleted."""
    packs = {}
    found = sorted(raw.glob("*.tar"))
    for pack, whole in zip(found, on_all_cores(verify_pack, found), strict=True):
        if whole:
            packs[pack] = index_pack(pack)
        else:
            pack.unlink()
    return packs


def _known(images: list[SourceImage], raw: Path, journal: IngestJournal, have: set[str]) -> dict[str, str | Refused]:
    """Path -> key or refusal of the images that don't have to be read: packed or refused, and of the same version."""
    before: dict[tuple[str, str | None], str | Refused]
    before = {(row.path, row.version): row.refusal or row.key for row in previous_discovered(raw)}
    before |= journal.read()
    known = {}
    for image in images:
        one = before.get((image.path, image.version)) if image.version is not None else None
        if isinstance(one, Refused) or one in have:
            known[image.path] = one
    return known


def _read_new(
    images: list[SourceImage],
    found: dict[str, str | Refused],
    have: set[str],
    read: list[tuple[SourceImage, str]],
    readers: int,
    progress: Progress,
) -> Iterator[tuple[str, bytes]]:
    """Read the unknown images, and yield those that are in no pack, in order.

    Adds their keys or refusals to `found`, and the images that aren't refused to `read`, with their keys.
    """
    seen = set(have)
    unknown = [image for image in images if image.path not in found]
    lost: list[str] = []
    for number, (image, data) in enumerate(read_ahead(unknown, readers), 1):
        progress.advance()
        if isinstance(data, Refused):
            found[image.path] = data
            if data.code in PASSING:
                lost.append(f"{image.path}: {data}")
                _check_lost(lost, number, _FEW)
            continue
        key = found[image.path] = sha256_hex(data)
        read.append((image, key))
        if key not in seen:
            seen.add(key)
            yield key, data
    _check_lost(lost, len(images), 0)


def _check_lost(lost: list[str], of: int, allowed: int) -> None:
    """Stop before packs are deleted if the source changes as a whole: it has to be listed again, after a while."""
    if len(lost) > max(allowed, MAX_LOST_SHARE * of):
        raise TransientError(
            f"{len(lost)} of {of} images changed or disappeared after they were listed, or are damaged: something "
            f"writes to the source, or it was taken away. What is packed stays. The last one:\n  {lost[-1]}"
        )


def _drop_unwanted(raw: Path, packs: dict[Path, dict[str, PackEntry]], wanted: set[str], pack_size: int) -> None:
    """Delete packs with bytes that are no longer at the source; copy their wanted bytes first."""
    stale = [pack for pack, places in packs.items() if not places.keys() <= wanted]
    small = [pack for pack in packs if pack not in stale and 2 * pack.stat().st_size < pack_size]
    if len(small) > MAX_SMALL_PACKS:
        stale += small  # many small packs: join them
    kept = {key for pack, places in packs.items() if pack not in stale for key in places}
    alive = {key: place for pack in stale for key, place in packs[pack].items() if key in wanted - kept}
    copies = write_packs(raw, ((key, read_image(place, key)) for key, place in alive.items()), pack_size)
    written = {pack for pack, _ in copies}
    for pack in stale:
        if pack not in written:
            pack.unlink()


def _limit(listing: SourceListing, per_class: int | None) -> tuple[list[SourceImage], set[str]]:
    """The images within the limit, and the paths of the others. The choice depends on hashes of paths, not on order."""
    if per_class is None:
        return list(listing.images), set()
    chosen: dict[str, int] = {}
    beyond: set[str] = set()
    for image in sorted(listing.images, key=lambda image: hashlib.sha256(image.path.encode()).digest()):
        chosen[image.label] = chosen.get(image.label, 0) + 1
        if chosen[image.label] > per_class:
            beyond.add(image.path)
    return [image for image in listing.images if image.path not in beyond], beyond


def _rows(listing: SourceListing, found: dict[str, str | Refused], beyond: set[str]) -> list[Discovered]:
    rows = [_row(image, found.get(image.path, ""), image.path in beyond) for image in listing.images]
    rows += [Discovered(entry.path, "", None, "", entry.reason) for entry in listing.excluded]
    return sorted(rows, key=lambda row: row.path)


def _row(image: SourceImage, found: str | Refused, is_beyond: bool) -> Discovered:
    beyond = "over_limit" if is_beyond else None
    row = Discovered(image.path, image.label, image.split, "", beyond, image.version, image.group, about=image.about)
    if isinstance(found, Refused):
        version = None if found.code in PASSING else row.version
        return replace(row, refused=found.code, detail=found.detail, version=version)
    return replace(row, key=found)


def main() -> int:
    return run_stage("ingest", run)


if __name__ == "__main__":
    raise SystemExit(main())
