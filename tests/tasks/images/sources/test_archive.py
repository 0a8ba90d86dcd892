"""Archives: read like the folder that they contain; hostile ones are refused, with little memory and disk."""

from __future__ import annotations

import gzip
import os
import random
import stat
import struct
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.errors import SourceError, StorageError
from tasks.images.sources import archive, folder, source_cache
from tasks.images.sources.archive import tars
from tests.conftest import PROJECT, contents
from tests.tasks.images.sources.conftest import Bucket
from tests.tasks.images.sources.making import (
    FLOWERS,
    compress,
    files_of,
    known,
    labels,
    let_rest,
    make_archive,
    make_tar,
    make_zip,
    reasons,
    special,
    split_source,
    tar_bytes,
    zip_entry,
)
from tests.tasks.images.sources.policies import policy

NAMES = ["f.zip", "f.tar", "f.tar.gz", "f.tgz", "f.tar.zst", "f.tzst"]
TARS = ["f.tar", "f.tar.gz", "f.tar.zst"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder of its own, for the temporary files."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize("name", NAMES)
def test_archive_gives_what_its_folder_gives(tmp_path: Path, name: str) -> None:
    root = split_source(tmp_path / "images")
    listing = archive.discover(str(make_archive(tmp_path / name, files_of(root))), policy())
    assert known(listing) == known(folder.discover(str(root), policy()))
    assert {item.split for item in listing.images} == {"train", "test"}


@pytest.mark.parametrize("name", NAMES)
def test_archive_members_have_their_bytes_whatever_the_name_of_the_archive_says(tmp_path: Path, name: str) -> None:
    path = make_archive(tmp_path / name, FLOWERS).rename(tmp_path / "download")
    assert {item.path: item.read() for item in archive.discover(str(path), policy()).images} == FLOWERS


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ("flowers/", {"rose", "tulip"}),
        ("a/b/flowers/", {"rose", "tulip"}),
        ("./flowers//", {"rose", "tulip"}),
        ("", {"rose", "tulip"}),
    ],
)
def test_archive_looks_through_folders_common_to_all_images(tmp_path: Path, top: str, expected: set[str]) -> None:
    files = {top + name: data for name, data in FLOWERS.items()} | {"LICENSE": b"free", "__MACOSX/x/y/z": b""}
    listing = archive.discover(str(make_archive(tmp_path / "f.tar.gz", files)), policy())
    assert {item.label for item in listing.images} == expected
    assert reasons(listing) == {"LICENSE": "outside_class_folders", "__MACOSX/x/y/z": "system_file"}


def test_archive_looks_through_the_folder_above_its_splits(tmp_path: Path) -> None:
    names = ["data/train/rose/1", "data/train/tulip/2", "data/test/rose/3", "data/extra/rose/4", "data/train/5"]
    listing = archive.discover(str(make_archive(tmp_path / "f.zip", dict.fromkeys(names, b"x"))), policy())
    assert labels(listing) == {
        "data/train/rose/1": ("rose", "train"),
        "data/train/tulip/2": ("tulip", "train"),
        "data/test/rose/3": ("rose", "test"),
    }
    assert reasons(listing) == {"data/extra/rose/4": "outside_split_folders", "data/train/5": "outside_class_folders"}


def test_archive_of_one_class_keeps_its_name(tmp_path: Path) -> None:
    listing = archive.discover(str(make_archive(tmp_path / "f.zip", {"rose/1": b"", "rose/2": b""})), policy())
    assert {item.label for item in listing.images} == {"rose"}


EVIL_NAMES = {
    "/etc/passwd": "absolute_path",
    "../../out.jpg": "path_out_of_archive",
    "rose/../../out.jpg": "path_out_of_archive",
    "..\\out.jpg": "path_out_of_archive",
    "C:\\Windows\\x.jpg": "absolute_path",
    "\\\\server\\x.jpg": "absolute_path",
}


@pytest.mark.parametrize("name", ["f.zip", *TARS])
def test_case_18_names_that_lead_outside_are_excluded_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    path = make_archive(tmp_path / name, FLOWERS | dict.fromkeys(EVIL_NAMES, b"evil"))
    before = {file for file in contents(tmp_path) if not file.startswith("here/")}
    listing = archive.discover(str(path), policy())
    assert {item.path: item.read() for item in listing.images} == FLOWERS
    assert sorted(entry.reason for entry in listing.excluded) == sorted(EVIL_NAMES.values())
    after = contents(tmp_path)
    assert {file for file in after if not file.startswith("here/.rootstock/sources/")} == before
    assert not (tmp_path.parent / "out.jpg").exists()


@pytest.mark.parametrize("name", TARS)
def test_case_18_links_and_devices_in_a_tar_are_excluded(tmp_path: Path, name: str) -> None:
    odd = [
        (special("rose/soft", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (special("rose/hard", tarfile.LNKTYPE, "rose/1.jpg"), b""),
        (special("rose/fifo", tarfile.FIFOTYPE), b""),
        (special("rose/disk", tarfile.BLKTYPE), b""),
        (special("rose/tty", tarfile.CHRTYPE), b""),
        (special("rose/folder", tarfile.DIRTYPE), b""),
    ]
    listing = archive.discover(str(make_tar(tmp_path / name, [*FLOWERS.items(), *odd])), policy())
    assert {item.path for item in listing.images} == set(FLOWERS)
    assert reasons(listing) == {
        "rose/soft": "link",
        "rose/hard": "link",
        "rose/fifo": "not_a_regular_file",
        "rose/disk": "not_a_regular_file",
        "rose/tty": "not_a_regular_file",
    }


def test_case_18_links_devices_and_locked_members_of_a_zip_are_excluded(tmp_path: Path) -> None:
    odd = [
        (zip_entry("rose/soft", stat.S_IFLNK | 0o777), b"/etc/passwd"),
        (zip_entry("rose/fifo", stat.S_IFIFO), b""),
        (zip_entry("rose/locked"), b"secret"),
        (zip_entry("rose/folder/", stat.S_IFDIR), b""),
    ]
    path = make_zip(tmp_path / "f.zip", [*FLOWERS.items(), *odd])
    set_flag(path, b"rose/locked", 0x1)
    listing = archive.discover(str(path), policy())
    assert {item.path for item in listing.images} == set(FLOWERS)
    assert reasons(listing) == {"rose/soft": "link", "rose/fifo": "not_a_regular_file", "rose/locked": "encrypted"}


def set_flag(path: Path, name: bytes, flag: int) -> None:
    """Set bits of the general purpose flag in the central directory; zipfile can't write them."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(name) - 46
    assert data[entry : entry + 4] == b"PK\x01\x02"
    struct.pack_into("<H", data, entry + 8, flag)
    path.write_bytes(data)


def test_case_18_methods_whose_memory_the_archive_chooses_are_excluded(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "f.zip", FLOWERS.items())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_LZMA) as file:
        file.writestr("rose/3.jpg", b"lzma")
    assert reasons(archive.discover(str(path), policy())) == {"rose/3.jpg": "unsupported_compression"}


@pytest.mark.parametrize("name", ["f.zip", *TARS])
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_case_18_of_members_with_one_name_the_last_counts(tmp_path: Path, name: str) -> None:
    twice = [("rose/1.jpg", b"first"), ("tulip/1.jpg", b"t"), ("./rose/1.jpg", b"second"), ("rose/1.jpg", b"third")]
    make = make_zip if name == "f.zip" else make_tar
    listing = archive.discover(str(make(tmp_path / name, twice)), policy())
    assert {item.path: item.read() for item in listing.images} == {"rose/1.jpg": b"third", "tulip/1.jpg": b"t"}
    assert reasons(listing) == {
        "rose/1.jpg (entry 1)": "duplicate_member",
        "rose/1.jpg (entry 3)": "duplicate_member",
    }


def test_case_18_sparse_members_are_excluded(tmp_path: Path) -> None:
    with open(tmp_path / "holes", "wb") as file:  # noqa: PTH123
        file.truncate(10 << 20)
    sparse = tarfile.TarInfo("rose/holes")
    sparse.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1000000000000", "GNU.sparse.numblocks": "1"}
    listing = archive.discover(str(make_tar(tmp_path / "f.tar", [*FLOWERS.items(), (sparse, b"x")])), policy())
    assert reasons(listing) == {"rose/holes": "sparse_file"}


@pytest.mark.parametrize("name", ["f.zip", *TARS])
def test_case_19_a_member_too_large_for_an_image_is_never_read(tmp_path: Path, name: str) -> None:
    path = make_archive(tmp_path / name, FLOWERS | {"rose/big": b"x" * 1001})
    listing = archive.discover(str(path), policy(max_image_bytes=1000))
    assert reasons(listing) == {"rose/big": "too_large"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("gzip", marks=pytest.mark.slow),
        "zstd",
        pytest.param("zip", marks=pytest.mark.slow),
        "overlap",
        "name",
    ],
)
def test_case_19_bombs_are_refused_with_bounded_memory_and_disk(tmp_path: Path, kind: str, elsewhere: Path) -> None:
    path = make_bomb(tmp_path / "bomb", kind)
    assert path.stat().st_size < 8 << 20
    code = f"""
        import resource
        from pathlib import Path
        from tasks.errors import SourceError
        from tasks.images.sources import archive
        from tests.tasks.images.sources.policies import policy

        def peak_kb():  # not ru_maxrss, which a child inherits from its parent
            [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
            return int(line.split()[1])

        resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 20, 100 << 20))
        before = peak_kb()
        try:
            listing = archive.discover({str(path)!r}, policy())
        except SourceError as error:
            print(error)
        print(peak_kb() - before)
    """
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    said = subprocess.run(command, cwd=elsewhere, env=environment, check=True, capture_output=True, text=True).stdout
    message, grown_kb = said.rsplit("\n", 2)[:2]
    assert ("a header of" if kind == "name" else "is refused") in message
    assert 0 <= int(grown_kb) < 30_000
    assert sum(len(data) for data in contents(elsewhere).values()) <= 61 << 20


def make_bomb(path: Path, kind: str) -> Path:
    """A GiB of zeros in about a MB, in the ways that archives offer."""
    zeros = bytes(1 << 20)
    if kind == "zip":
        with zipfile.ZipFile(path, "w", 8) as archive_file, archive_file.open("rose/1.bmp", "w") as member:
            for _ in range(1024):
                member.write(zeros)
        return path
    if kind == "overlap":  # many directory entries for one body, as D. Fifield, A better zip bomb, WOOT 2019
        return overlapping_zip(path)
    header = tarfile.TarInfo("rose/1.bmp")
    header.size = 1 << 30
    if kind == "name":
        header.type = tarfile.GNUTYPE_LONGNAME
        header.size = 60 << 20
    blocks = header.tobuf(tarfile.GNU_FORMAT)
    write = zstd_writer if kind == "zstd" else gzip.GzipFile
    with write(path, "wb") as stream:
        stream.write(blocks)
        for _ in range(header.size >> 20):
            stream.write(zeros)
        stream.write(bytes(1024))
    return path


def zstd_writer(path: Path, _mode: str) -> Any:
    return pa.CompressedOutputStream(str(path), "zstd")


def overlapping_zip(path: Path) -> Path:
    make_zip(path, [("rose/1.bmp", bytes(4 << 20))])
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    entry, end = data[directory : data.index(b"PK\x05\x06")], data[data.index(b"PK\x05\x06") :]
    count = 500
    end = end[:8] + struct.pack("<HHLL", count, count, len(entry) * count, directory) + end[20:]
    path.write_bytes(data[:directory] + entry * count + end)
    return path


def test_case_19_a_disk_that_is_nearly_full_stops_the_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_archive(tmp_path / "f.tar.gz", FLOWERS)
    monkeypatch.setattr(tars, "_SPARE_BYTES", 1 << 62)
    with pytest.raises(StorageError, match=r"bytes left, and .*f\.tar\.gz is not fully unpacked"):
        archive.discover(str(path), policy())
    assert not any(file.endswith(".tar") for file in contents(Path()))


def test_blank_bitmaps_are_not_a_bomb() -> None:
    policy().check_unpacked("f.zip", 1 << 30, 100 << 30)
    with pytest.raises(SourceError, match="is refused"):
        policy().check_unpacked("f.zip", 1 << 30, 101 << 30)


@pytest.mark.parametrize("name", ["f.zip", *TARS])
def test_archive_cut_off_anywhere_is_damaged(tmp_path: Path, name: str) -> None:
    noise = random.Random(3)
    files = {f"{label}/{number}": noise.randbytes(700) for label in ("rose", "tulip") for number in range(5)}
    data = make_archive(tmp_path / name, files).read_bytes()
    if name == "f.tar":
        data = data[: data.rindex(noise_end(files)) + 700]  # without the padding behind the last member
    for share in range(5, 100, 5):
        path = tmp_path / f"cut{share}"
        path.write_bytes(data[: len(data) * share // 100])
        with pytest.raises(SourceError, match=r"is damaged or cut off|holds nothing|is not a tar") as caught:
            archive.discover(str(path), policy())
        assert "Get it again" in str(caught.value) or share == 0


def noise_end(files: dict[str, bytes]) -> bytes:
    return list(files.values())[-1][:32]


def test_tar_cut_between_two_members_is_damaged(tmp_path: Path) -> None:
    data = tar_bytes(FLOWERS.items())
    path = tmp_path / "f.tar"
    path.write_bytes(data[:1024])  # one whole member
    with pytest.raises(SourceError, match=r"neither a header nor the end mark at offset 1024 of 1024"):
        archive.discover(str(path), policy())


def test_tar_with_a_broken_header_in_the_middle_is_damaged(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(FLOWERS.items()))
    data[1024 + 150] ^= 1  # in the second member's checksum
    path = tmp_path / "f.tar"
    path.write_bytes(data)
    with pytest.raises(SourceError, match="is damaged or cut off"):
        archive.discover(str(path), policy())


@pytest.mark.timeout(60)
def test_tar_with_a_negative_size_ends(tmp_path: Path) -> None:
    header = tarfile.TarInfo("rose/2")
    header.size = 512
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (2**96 - 512).to_bytes(12, "big")  # -512: the next header is this one
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path = tmp_path / "f.tar"
    path.write_bytes(tar_bytes([("rose/1", b"x")])[:1024] + bytes(block) + bytes(1024))
    with pytest.raises(SourceError, match="is damaged or cut off"):
        archive.discover(str(path), policy())


@pytest.mark.parametrize("name", ["f.zip", "f.tar.gz"])  # Arrow writes zstd without checksums; `zstd` writes them
def test_archive_with_flipped_bits_is_damaged_when_read(tmp_path: Path, name: str) -> None:
    noise = random.Random(4).randbytes(5000)
    path = make_archive(tmp_path / name, {"rose/1": noise, "tulip/1": b"x"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(SourceError, match="is damaged or cut off"):
        [item.read() for item in archive.discover(str(path), policy()).images]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["zip", "", "gz", "zst"]), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=8))
def test_case_18_mutated_archives_give_images_or_a_source_error(
    tmp_path: Path, kind: str, changes: list[tuple[int, int]]
) -> None:
    if kind == "zip":
        data = bytearray(make_zip(tmp_path / "z", FLOWERS.items()).read_bytes())
    else:
        data = bytearray(compress(tar_bytes(FLOWERS.items()), kind))
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path / "mutated"
    path.write_bytes(data)
    try:
        for item in archive.discover(str(path), policy()).images:
            item.read()
    except SourceError:
        pass


def test_case_44_names_are_printable_and_never_the_same(tmp_path: Path) -> None:
    names = ["rose/<img onerror=x>", "=cmd()/1", "a|b/1", "rose/line\nbreak", "rose/back\\slash", "rose/\u202egpj.exe"]
    for kind in ("f.zip", "f.tar"):
        listing = archive.discover(str(make_archive(tmp_path / kind, dict.fromkeys(names, b"x"))), policy())
        assert len({item.path for item in listing.images}) == len(names)
        assert all(item.path.isprintable() and item.label.isprintable() for item in listing.images)


def test_case_46_names_that_are_not_utf8_are_escaped_in_a_tar(tmp_path: Path) -> None:
    data = tar_bytes([("rose/XX", b"1"), ("tulip/1", b"2")])
    block = bytearray(data[:512].replace(b"rose/XX", b"rose/\xff\xe9"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "f.tar").write_bytes(bytes(block) + data[512:])
    assert [item.path for item in archive.discover(str(tmp_path / "f.tar"), policy()).images] == [
        r"rose/\xff\xe9",
        "tulip/1",
    ]


def test_case_46_names_in_a_zip_are_utf8_where_their_bytes_are_else_code_page_437(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "f.zip", [("rose/XX", b"1"), ("rose/Y", b"2"), ("tulip/1", b"3")])
    data = path.read_bytes().replace(b"rose/XX", "rose/é".encode()).replace(b"rose/Y", b"rose/\x81")
    path.write_bytes(data)
    read = {item.path: item.read() for item in archive.discover(str(path), policy()).images}
    assert read == {"rose/é": b"1", "rose/ü": b"2", "tulip/1": b"3"}


def test_zip_from_windows_may_part_folders_with_backslashes(tmp_path: Path) -> None:
    entries = [(zip_entry("rose\\1.jpg", 0, 0), b"1"), (zip_entry("tulip\\1.jpg", 0, 0), b"2")]
    assert labels(archive.discover(str(make_zip(tmp_path / "f.zip", entries)), policy())) == {
        "rose/1.jpg": ("rose", None),
        "tulip/1.jpg": ("tulip", None),
    }


@pytest.mark.parametrize("name", NAMES)
def test_archive_that_did_not_change_has_the_same_versions_and_is_not_unpacked_again(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_archive(tmp_path / name, FLOWERS)
    first = [item.version for item in archive.discover(str(path), policy()).images]
    assert len(set(first)) == len(FLOWERS)
    monkeypatch.setattr(tars, "_copy", None)  # unpacking would fail
    listing = archive.discover(str(path), policy())
    assert [item.version for item in listing.images] == first
    assert {item.path: item.read() for item in listing.images} == FLOWERS


@pytest.mark.parametrize("name", NAMES)
def test_case_38_archive_with_new_bytes_under_the_old_time_and_size_has_new_versions(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_cache, "_RACY_S", 0)
    path = make_archive(tmp_path / name, FLOWERS)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    let_rest(path)
    first = {item.version for item in archive.discover(str(path), policy()).images}
    make_archive(path, FLOWERS | {"rose/1.jpg": b"RED"})
    os.utime(path, ns=times)
    listing = archive.discover(str(path), policy())
    assert first.isdisjoint(item.version for item in listing.images)
    assert b"RED" in {item.read() for item in listing.images}


def unpacked_tars() -> list[Path]:
    return list(policy().cache.folder.glob("unpacked/*/data"))


def test_unpacked_tar_that_was_damaged_is_made_again(tmp_path: Path) -> None:
    path = make_archive(tmp_path / "f.tar.gz", FLOWERS)
    archive.discover(str(path), policy())
    [unpacked] = unpacked_tars()
    os.truncate(unpacked, 700)
    assert {item.path: item.read() for item in archive.discover(str(path), policy()).images} == FLOWERS


def test_unpacked_tar_of_an_archive_that_changed_is_removed_but_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_cache, "IN_USE_S", -1)
    old = archive.discover(str(make_archive(tmp_path / "f.tar.gz", FLOWERS)), policy())
    other = archive.discover(str(make_archive(tmp_path / "g.tar.gz", {"a/1": b"1", "b/1": b"2"})), policy())
    assert len(unpacked_tars()) == 2
    archive.discover(str(make_archive(tmp_path / "f.tar.gz", {"a/1": b"3", "b/1": b"4"})), policy())
    assert len(unpacked_tars()) == 2
    assert {item.path: item.read() for item in old.images} == FLOWERS
    assert [item.read() for item in other.images] == [b"1", b"2"]


@pytest.mark.parametrize("name", NAMES)
def test_archive_is_read_by_many_threads(tmp_path: Path, name: str) -> None:
    noise = random.Random(5)
    files = {f"{label}/{number}": noise.randbytes(20_000) for label in "ab" for number in range(100)}
    items = archive.discover(str(make_archive(tmp_path / name, files)), policy()).images
    with ThreadPoolExecutor(8) as pool:
        assert dict(zip([item.path for item in items], pool.map(lambda item: item.read(), items), strict=True)) == files


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"<html>404", "begins with b'<html>40'"),
        (b"Rar!\x1a\x07", "is not a tar (plain, gzip, zstd) or zip"),
        (gzip.compress(b"no tar", mtime=0), "is damaged"),
        (gzip.compress(b"", mtime=0), "holds nothing"),
        (tar_bytes([]), "is not a tar"),
        (tar_bytes([(special("a/b", tarfile.SYMTYPE, "x"), b"")]), "1 link"),
    ],
)
def test_file_that_is_not_an_archive_of_images_is_explained(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "f.tar.gz"
    path.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        archive.discover(str(path), policy())
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["f.zip", "f.tar.gz"])
def test_archive_in_s3_is_fetched_once_and_asked_for_once_while_it_is_the_same(
    tmp_path: Path, bucket: Bucket, name: str
) -> None:
    bucket.put(name, body=make_archive(tmp_path / name, FLOWERS).read_bytes())
    archive.check(bucket.uri(name), policy())
    first = archive.discover(bucket.uri(name), policy())
    assert {item.path: item.read() for item in first.images} == FLOWERS
    bucket.proxy.clear()
    again = archive.discover(bucket.uri(name), policy())
    assert [item.version for item in again.images] == [item.version for item in first.images]
    assert [(seen.method, seen.status) for seen in bucket.proxy.requests()] == [("HEAD", 200)]


def test_archive_in_s3_that_changed_is_fetched_again_and_the_old_one_swept(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_cache, "IN_USE_S", -1)
    bucket.put("f.zip", "g.zip", body=make_archive(tmp_path / "f.zip", FLOWERS).read_bytes())
    first = archive.discover(bucket.uri("f.zip"), policy())
    bucket.put("f.zip", body=make_archive(tmp_path / "f.zip", FLOWERS | {"rose/1.jpg": b"RED"}).read_bytes())
    second = archive.discover(bucket.uri("f.zip"), policy())
    assert {item.version for item in first.images}.isdisjoint(item.version for item in second.images)
    assert {item.path: item.read() for item in second.images}["rose/1.jpg"] == b"RED"
    archive.discover(bucket.uri("g.zip"), policy())
    assert len(list(policy().cache.folder.glob("downloads/*/data"))) == 2
    assert {item.path: item.read() for item in second.images}["rose/1.jpg"] == b"RED"


def test_archive_in_s3_that_is_missing_is_reported(bucket: Bucket) -> None:
    for act in (archive.check, archive.discover):
        with pytest.raises(SourceError, match="there is no such object"):
            act(bucket.uri("f.zip"), policy())


def test_archive_that_is_missing_or_a_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="doesn't exist"):
        archive.check(str(tmp_path / "f.zip"), policy())
    with pytest.raises(SourceError, match="is not a file"):
        archive.check(str(tmp_path), policy())
