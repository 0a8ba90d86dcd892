"""Archives, tables and folders of the same images, and hostile archives that no normal program makes."""

from __future__ import annotations

import csv
import hashlib
import io
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa

from tasks.images.sources import SourceListing
from tests.conftest import fill_source
from tests.waiting import wait_until

Files = Mapping[str, bytes]
FLOWERS = {"rose/1.jpg": b"BM red", "rose/2.jpg": b"BM pink", "tulip/1.jpg": b"BM yellow"}


def known(listing: SourceListing) -> set[tuple[str, str | None, str]]:
    """What must be the same through every kind of source: class, split, SHA-256."""
    return {(item.label, item.split, hashlib.sha256(item.read()).hexdigest()) for item in listing.images}


def reasons(listing: SourceListing) -> dict[str, str]:
    assert len({entry.path for entry in listing.excluded}) == len(listing.excluded)
    return {entry.path: entry.reason for entry in listing.excluded}


def labels(listing: SourceListing) -> dict[str, tuple[str, str | None]]:
    return {item.path: (item.label, item.split) for item in listing.images}


def split_source(root: Path) -> Path:
    """Class folders below `train` and `val`."""
    fill_source(root / "train", 6)
    fill_source(root / "val", 3)
    return root


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def make_zip(path: Path, files: Iterable[tuple[str | zipfile.ZipInfo, bytes]], method: int = 8) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


def tar_bytes(members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data) if info.isreg() else info.size
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def compress(data: bytes, kind: str) -> bytes:
    """`kind` is `""`, `gz` or `zst`."""
    if not kind:
        return data
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, {"gz": "gzip", "zst": "zstd"}[kind]) as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def make_tar(path: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    """Compressed as the name says."""
    kind = {".gz": "gz", ".tgz": "gz", ".zst": "zst", ".tzst": "zst"}.get(path.suffix, "")
    path.write_bytes(compress(tar_bytes(members), kind))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A tar member that is no file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_entry(name: str, mode: int = stat.S_IFREG | 0o644, system: int = 3) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr, info.compress_type = system, mode << 16, zipfile.ZIP_DEFLATED
    return info


def make_archive(path: Path, files: Files) -> Path:
    return make_zip(path, files.items()) if path.suffix == ".zip" else make_tar(path, files.items())


def make_csv(path: Path, rows: Iterable[Iterable[str]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def let_rest(path: Path) -> None:
    """Wait for the clock of the file system, which ticks every few milliseconds."""
    other = path.with_name("written later")

    def has_ticked() -> bool:
        other.touch()
        return other.stat().st_ctime_ns > path.stat().st_ctime_ns

    wait_until(has_ticked, "the clock of the file system to tick")
