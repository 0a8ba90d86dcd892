"""Ingest: every entry of the source is accounted for; bytes are packed once and deleted with their image."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks import ingest, prepare
from tasks.errors import SourceError, TransientError
from tasks.files import sha256_hex
from tasks.images.manifest import read_discovered
from tasks.images.packs import index_packs
from tasks.images.sources import SourceImage, SourceListing
from tasks.images.sources.listing import ImageReader
from tasks.images.sources.reading import LARGE_BYTES
from tasks.params import load_settings
from tasks.workspace import RAW, Workspace
from tests.conftest import contents, fill_source, save_image
from tests.tasks.images.sources.policies import policy
from tests.tasks.steps import Change, identities, kill_program, settings_for


def packed(workspace: Path) -> set[str]:
    return set(index_packs(workspace / RAW))


def at_source(source: Path) -> set[str]:
    return {sha256_hex(path.read_bytes()) for path in source.glob("*/*") if path.is_file()}


def raw(workspace: Path) -> dict[str, bytes]:
    return contents(workspace / RAW)


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of about four images: the setting's smallest is a megabyte."""
    write = ingest.write_packs
    monkeypatch.setattr(ingest, "write_packs", lambda folder, images, _: write(folder, images, 10_000))


def test_ingest_packs_every_image(workspace: Path, source: Path, change: Change) -> None:
    summary = ingest.run(settings_for(change, source), Workspace.at(workspace))
    assert (summary.discovered, summary.excluded, summary.packed, summary.reused) == (24, 0, 24, 0)
    assert packed(workspace) == at_source(source)


@pytest.mark.usefixtures("small_packs")
def test_unchanged_source_packs_nothing(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    ingest.run(wanted, Workspace.at(workspace))
    before, files = raw(workspace), identities(workspace / RAW, "*.tar")
    summary = ingest.run(wanted, Workspace.at(workspace))
    assert (summary.packed, summary.reused) == (0, 24)
    assert raw(workspace) == before
    assert identities(workspace / RAW, "*.tar") == files
    assert len(files) > 2


@pytest.mark.usefixtures("small_packs")
def test_new_images_leave_the_old_packs_untouched(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    ingest.run(wanted, Workspace.at(workspace))
    files = identities(workspace / RAW, "*.tar")
    save_image(source / "ant" / "new.png", "ant", 99)
    summary = ingest.run(wanted, Workspace.at(workspace))
    assert (summary.packed, summary.reused) == (1, 24)
    assert files.items() <= identities(workspace / RAW, "*.tar").items()


@pytest.mark.usefixtures("small_packs")
def test_removed_images_are_gone_from_the_packs(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    ingest.run(wanted, Workspace.at(workspace))
    removed = source / "bee" / "003.png"
    data = removed.read_bytes()
    removed.unlink()
    ingest.run(wanted, Workspace.at(workspace))
    assert not any(data[40:] in content for content in raw(workspace).values())
    assert packed(workspace) == at_source(source)


def test_new_bytes_behind_the_same_size_and_time_are_noticed(workspace: Path, source: Path, change: Change) -> None:
    wanted = settings_for(change, source)
    ingest.run(wanted, Workspace.at(workspace))
    path = source / "ant" / "000.jpg"
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert ingest.run(wanted, Workspace.at(workspace)).packed >= 1
    assert packed(workspace) == at_source(source)


def test_same_bytes_under_several_paths_are_packed_once(workspace: Path, source: Path, change: Change) -> None:
    (source / "ant" / "copy.jpg").write_bytes((source / "ant" / "000.jpg").read_bytes())
    summary = ingest.run(settings_for(change, source), Workspace.at(workspace))
    assert (summary.discovered, summary.packed) == (25, 24)
    rows = read_discovered(workspace / RAW)
    assert len({row.key for row in rows if row.path in ("ant/copy.jpg", "ant/000.jpg")}) == 1


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "lose"])
def test_damaged_pack_is_packed_again_and_no_other(workspace: Path, source: Path, change: Change, harm: str) -> None:
    wanted = settings_for(change, source)
    ingest.run(wanted, Workspace.at(workspace))
    before = raw(workspace)
    files = identities(workspace / RAW, "*.tar")
    victim = sorted(files)[1]
    content = victim.read_bytes()
    if harm == "flip":
        victim.write_bytes(content[:600] + bytes([content[600] ^ 1]) + content[601:])
    elif harm == "lose":
        victim.unlink()
    else:
        victim.write_bytes(content[: 0 if harm == "empty" else 700])
    ingest.run(wanted, Workspace.at(workspace))
    assert raw(workspace) == before
    others = identities(workspace / RAW, "*.tar")
    assert {path: files[path] for path in files if path != victim} == {
        path: others[path] for path in others if path != victim
    }


def test_limit_takes_so_many_of_each_class_and_lists_the_rest(workspace: Path, source: Path, change: Change) -> None:
    summary = ingest.run(settings_for(change, source, "source.limit_per_class=5"), Workspace.at(workspace))
    rows = read_discovered(workspace / RAW)
    taken = [row.label for row in rows if not row.excluded]
    assert sorted(taken) == ["ant"] * 5 + ["bee"] * 5
    assert {row.excluded for row in rows} == {None, "over_limit"}
    assert (summary.discovered, summary.excluded, summary.packed) == (24, 14, 10)


def test_larger_limit_keeps_what_the_smaller_one_took(workspace: Path, source: Path, change: Change) -> None:
    taken = []
    for limit in (3, 6):
        ingest.run(settings_for(change, source, f"source.limit_per_class={limit}"), Workspace.at(workspace))
        taken.append({row.path for row in read_discovered(workspace / RAW) if not row.excluded})
    assert taken[0] < taken[1]


def versioned(listing: SourceListing, reads: list[str]) -> SourceListing:
    """The listing as a source would give it that knows versions; what is read is noted."""

    @dataclasses.dataclass
    class Noting:
        reader: ImageReader

        def read(self, image: SourceImage) -> bytes:
            reads.append(image.path)
            return self.reader.read(image)

        def read_head(self, image: SourceImage) -> bytes | None:
            return self.reader.read_head(image)

    return SourceListing(
        tuple(
            dataclasses.replace(item, version=f"1 of {item.path}", reader=Noting(item.reader))
            for item in listing.images
        ),
        listing.excluded,
        {"name": "Insects", "licence": "CC0"},
    )


def test_known_versions_are_not_read_again(
    workspace: Path, source: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    found = versioned(ingest.discover(str(source), policy()), reads)
    monkeypatch.setattr(ingest, "discover", lambda *_: found)
    settings = settings_for(change, source)
    ingest.run(settings, Workspace.at(workspace))
    assert sorted(reads) == sorted(item.path for item in found.images)
    before = raw(workspace)
    reads.clear()
    assert ingest.run(settings, Workspace.at(workspace)).packed == 0
    assert reads == []
    assert raw(workspace) == before

    first, *others = found.images
    again = dataclasses.replace(first, version="2")
    monkeypatch.setattr(ingest, "discover", lambda *_: SourceListing((again, *others), found.excluded))
    ingest.run(settings, Workspace.at(workspace))
    assert reads == [first.path]


@pytest.mark.usefixtures("small_packs")
def test_what_a_killed_run_packed_is_not_read_again(
    workspace: Path, source: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    found = versioned(ingest.discover(str(source), policy()), reads)
    monkeypatch.setattr(ingest, "discover", lambda *_: found)
    settings = settings_for(change, source)
    last = found.images[-1]
    broken = dataclasses.replace(last, place=".")  # a folder
    monkeypatch.setattr(ingest, "discover", lambda *_: SourceListing((*found.images[:-1], broken), found.excluded))
    with pytest.raises(SourceError, match="can't be read"):
        ingest.run(settings, Workspace.at(workspace))
    assert list((workspace / RAW).glob("*.tar"))
    monkeypatch.setattr(ingest, "discover", lambda *_: found)
    reads.clear()
    ingest.run(settings, Workspace.at(workspace))
    assert last.path in reads
    assert len(reads) < len(found.images) / 2
    assert not Workspace.at(workspace).ingest_journal.exists()


def test_many_small_packs_are_joined(workspace: Path, source: Path, change: Change) -> None:
    settings = settings_for(change, source)
    for number in range(ingest.MAX_SMALL_PACKS + 3):
        save_image(source / "ant" / f"new{number}.png", "ant", 1000 + number)
        ingest.run(settings, Workspace.at(workspace))
        assert packed(workspace) == at_source(source)
    assert len(list((workspace / RAW).glob("*.tar"))) < 5


def test_source_says_what_it_is(workspace: Path, source: Path, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    found = versioned(ingest.discover(str(source), policy()), [])
    monkeypatch.setattr(ingest, "discover", lambda *_: found)
    ingest.run(settings_for(change, source), Workspace.at(workspace))
    about = json.loads((workspace / RAW / "source.json").read_text())
    assert about == {"name": "Insects", "licence": "CC0", "uri": str(source)}


def test_files_that_vanish_or_grow_after_the_listing_cost_only_themselves(
    workspace: Path, source: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, grown = source / "ant" / "004.jpg", source / "bee" / "006.jpg"
    kept = {path: path.read_bytes() for path in (gone, grown)}
    found = ingest.discover(str(source), policy(max_image_bytes=10_000))
    gone.unlink()
    grown.write_bytes(kept[grown] + bytes(10_000))
    settings = settings_for(change, source)
    with monkeypatch.context() as patched:
        patched.setattr(ingest, "discover", lambda *_: found)
        summary = ingest.run(settings, Workspace.at(workspace))
    assert (summary.discovered, summary.refused, summary.packed) == (24, 2, 22)
    rows = {row.path: row for row in read_discovered(workspace / RAW)}
    assert (rows["ant/004.jpg"].refused, rows["bee/006.jpg"].refused) == ("gone", "changed_while_read")
    assert prepare.run(settings, Workspace.at(workspace)).quarantined == 2

    for path, data in kept.items():
        path.write_bytes(data)
    summary = ingest.run(settings, Workspace.at(workspace))
    assert (summary.refused, summary.packed) == (0, 2)
    assert packed(workspace) == at_source(source)


def test_source_that_is_taken_away_stops_the_run_and_leaves_what_is_packed(
    workspace: Path, source: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(change, source)
    ingest.run(settings, Workspace.at(workspace))
    before, found = raw(workspace), ingest.discover(str(source), policy())
    monkeypatch.setattr(ingest, "discover", lambda *_: found)
    for number in range(5):  # more than a fifth of 24
        (source / "bee" / f"{number:03d}.{'png' if number % 2 else 'jpg'}").unlink()
    with pytest.raises(TransientError, match=r"5 of 24 images changed or disappeared .*\n.*bee/004\.jpg"):
        ingest.run(settings, Workspace.at(workspace))
    assert raw(workspace) == before
    shutil.rmtree(source)
    with pytest.raises(TransientError, match=r"21 of 21 images changed or disappeared"):
        ingest.run(settings, Workspace.at(workspace))
    assert raw(workspace) == before


VIDEO = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2"


def test_files_that_are_no_images_are_not_packed_and_large_ones_not_read(
    workspace: Path, source: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "ant" / "labels.txt").write_bytes(b"0 0.1 0.2\n")
    (source / "bee" / "copy.txt").write_bytes(b"0 0.1 0.2\n")
    with (source / "bee" / "film.mp4").open("wb") as file:
        file.write(VIDEO)
        file.truncate(LARGE_BYTES + 1)
    reads: list[str] = []
    found = versioned(ingest.discover(str(source), policy()), reads)
    monkeypatch.setattr(ingest, "discover", lambda *_: found)
    settings = settings_for(change, source)
    summary = ingest.run(settings, Workspace.at(workspace))
    assert (summary.discovered, summary.excluded, summary.refused, summary.packed) == (27, 0, 3, 24)
    assert "3 refused" in str(summary)
    assert len(packed(workspace)) == 24
    assert "bee/film.mp4" not in reads
    told = {row.path: (row.refused, row.detail, row.key) for row in read_discovered(workspace / RAW) if row.refused}
    unknown = "unknown content, starts with 30 20 30 2e 31 20 30 2e"
    assert told == {
        "ant/labels.txt": ("not_an_image", unknown, ""),
        "bee/copy.txt": ("not_an_image", unknown, ""),
        "bee/film.mp4": ("not_an_image", "a video", ""),
    }

    before = raw(workspace)
    reads.clear()
    again = ingest.run(settings, Workspace.at(workspace))
    assert (again.refused, again.packed, again.reused, reads) == (3, 0, 24, [])
    assert raw(workspace) == before
    assert ingest.is_listing_unchanged(found, None, read_discovered(workspace / RAW))


def test_file_that_becomes_an_image_is_packed(workspace: Path, source: Path, change: Change) -> None:
    late = source / "ant" / "late.png"
    late.write_bytes(b"soon")
    settings = settings_for(change, source)
    assert ingest.run(settings, Workspace.at(workspace)).refused == 1
    save_image(late, "ant", 77)
    summary = ingest.run(settings, Workspace.at(workspace))
    assert (summary.refused, summary.packed) == (0, 1)


def test_unsupported_formats_of_images_are_packed_for_a_later_version(
    workspace: Path, source: Path, change: Change
) -> None:
    (source / "ant" / "new.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    summary = ingest.run(settings_for(change, source), Workspace.at(workspace))
    assert (summary.refused, summary.packed) == (0, 25)


def test_limit_on_the_size_of_a_file_is_a_setting(workspace: Path, source: Path, change: Change) -> None:
    (source / "ant" / "large.bmp").write_bytes(b"BM" + bytes(1_000_000))
    summaries = [
        ingest.run(settings_for(change, source, f"ingest.max_file_mb={size}"), Workspace.at(workspace))
        for size in (1, 2)
    ]
    assert [(one.excluded, one.packed) for one in summaries] == [(1, 24), (0, 1)]


def test_source_in_the_home_folder_is_read_and_stays_as_it_was_typed(
    workspace: Path, source: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(source.parent))
    typed = f"~/{source.name}"
    assert ingest.run(settings_for(change, typed), Workspace.at(workspace)).packed == 24
    assert load_settings(workspace).source.uri == typed


def test_missing_source_leaves_what_is_packed(workspace: Path, source: Path, change: Change) -> None:
    ingest.run(settings_for(change, source), Workspace.at(workspace))
    before = raw(workspace)
    with pytest.raises(SourceError):
        ingest.run(settings_for(change, source / "nowhere"), Workspace.at(workspace))
    assert raw(workspace) == before


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_entry_is_an_image_or_excluded(
    workspace: Path, change: Change, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    source = tmp_path_factory.mktemp("source")
    names = st.sampled_from(["a/1", "a/2", "b/3", "b/deep/4", "b/.DS_Store", "c/5", "6", "a/Thumbs.db", "c/x/y/7"])
    count = 0
    for name in {"a/1", "b/3", *data.draw(st.sets(names))}:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(
            data.draw(st.sampled_from([b"BM", b""])) + data.draw(st.binary(min_size=1, max_size=3))
        )
        count += 1
    summary = ingest.run(settings_for(change, source), Workspace.at(workspace))
    rows = read_discovered(workspace / RAW)
    assert summary.discovered == len(rows) == count
    assert summary.excluded == sum(row.excluded is not None for row in rows)
    assert summary.refused == sum(row.refused is not None for row in rows)
    assert {row.key for row in rows if row.key} == packed(workspace)
    assert all([bool(row.key), bool(row.excluded), bool(row.refused)].count(True) == 1 for row in rows)


@pytest.mark.slow
def test_killed_ingest_continues_and_ends_like_an_uninterrupted_one(
    workspace: Path, tmp_path: Path, change: Change
) -> None:
    source = fill_source(tmp_path / "big", a_class=2)
    for number in range(12):
        (source / "ant" / f"{number}.bin").write_bytes(b"BM" + os.urandom(400_000))
    wanted = settings_for(change, source, "ingest.pack_size_mb=1")
    kill_program(workspace, "tasks.ingest", f"{RAW}/*.tar", 1)
    survivors, done = identities(workspace / RAW, "*.tar"), len(packed(workspace))
    assert 0 < done < 16
    summary = ingest.run(wanted, Workspace.at(workspace))
    assert (summary.packed, summary.reused) == (16 - done, done)
    assert survivors.items() <= identities(workspace / RAW, "*.tar").items()
    after = raw(workspace)
    shutil.rmtree(workspace / RAW)
    assert ingest.run(wanted, Workspace.at(workspace)).packed == 16
    assert raw(workspace) == after
