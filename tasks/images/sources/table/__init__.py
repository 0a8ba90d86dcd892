"""A table of images: `.csv` or `.parquet` with the columns `path,label[,split][,group]`, here or in S3.

Paths are relative to the table's folder; absolute ones and `..` are fine as long as they end inside that folder. Or
they are `s3://` objects, in the table's own bucket or in one that `source.s3_buckets` lists. CSV is UTF-8, separated by
comma, semicolon or tab, whichever gives the header's names; a misspelt or unknown column is refused, because a lost
`split` or `group` would leak. Splits are `train`, `val`/`valid`/`validation` and `test`, kept by the rule for folders.
A path that is given twice with all the same is one image, the second row excluded; with another class, split or
group it is an error. All errors are reported at once, with their rows.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tasks.errors import SourceError
from tasks.images.sources.layout import SPLIT_NAMES, class_name, kept_splits, printable
from tasks.images.sources.listing import Excluded, SourceImage, SourceListing
from tasks.images.sources.policy import SourcePolicy
from tasks.images.sources.table.rows import Problems, TableRow, brief, columns_of, read_rows

_S3 = "s3://"
_HEAD_BYTES = 64 << 10


class _Place(NamedTuple):
    """Where a row's image lies: its unique name, how to read it, its size, and the version of what is read."""

    name: str
    read: Callable[[], bytes]
    size: int
    version: str | None = None


@dataclass
class _Table:
    """Where the table lies, and what was found in it so far."""

    root: str
    problems: Problems
    policy: SourcePolicy
    items: dict[str, tuple[TableRow, SourceImage]] = field(default_factory=dict)
    excluded: list[Excluded] = field(default_factory=list)


def check(uri: str, policy: SourcePolicy) -> None:
    """Check whether the table is there and has the right columns.

    Raises:
        SourceError: it is missing, can't be read, or has other columns.
    """
    if uri.startswith(_S3):
        from tasks.images.sources import s3

        policy.check_memory(f"The table {uri!r}", s3.describe_object(uri, policy).size)
        return
    path = policy.check_file("table", uri, "images.csv")
    policy.check_memory(f"The table {uri!r}", path.stat().st_size)
    columns_of(_head(path), uri, policy)


def discover(uri: str, policy: SourcePolicy) -> SourceListing:
    """Every row, as an image of a class or with the reason why not.

    Raises:
        SourceError: as `check`, or rows are wrong; it names the first twenty and counts the others.
    """
    if not uri.startswith(_S3):
        check(uri, policy)
    root = uri.rpartition("/")[0] if uri.startswith(_S3) else os.path.realpath(policy.path(uri).parent)
    table = _Table(root, Problems(uri), policy)
    rows = list(read_rows(_read(uri, policy), uri, policy, table.problems))
    splits = kept_splits({row.split for row in rows})
    some_splits = any(row.split for row in rows)
    remote = _remote_places(rows, table)
    for row in rows:
        _check_words(row, some_splits, table.problems)
        place = remote.get(row.number) if _is_remote(row, table) else _local_place(row, table)
        if place is not None:
            _add(row, place, splits.get(row.split), table)
    table.problems.raise_if_any()
    return SourceListing.of([*(item for _, item in table.items.values()), *table.excluded])


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if head.startswith(b"PAR1"):
            return head + file.read()
    return head if len(head) < _HEAD_BYTES else head[: head.rfind(b"\n") + 1]


def _read(uri: str, policy: SourcePolicy) -> bytes:
    if uri.startswith(_S3):
        from tasks.images.sources import s3

        return s3.fetch_object(uri, policy)
    return policy.path(uri).read_bytes()


def _check_words(row: TableRow, some_splits: bool, problems: Problems) -> None:
    if not row.label:
        problems.add(row, "the label is empty")
    if row.split and row.split.lower() not in SPLIT_NAMES:
        problems.add(row, f"unknown split {brief(row.split)}; known are {', '.join(SPLIT_NAMES)}")
    if some_splits and not row.split:
        problems.add(row, "no split, but other rows have one")


def _is_remote(row: TableRow, table: _Table) -> bool:
    return row.path.startswith(_S3) or table.root.startswith(_S3)


def _local_place(row: TableRow, table: _Table) -> _Place | None:
    """A file below the table's folder; None, and a problem, if it is not one."""
    if not row.path or "\0" in row.path:
        table.problems.add(row, "the path holds a NUL" if row.path else "the path is empty")
        return None
    path = os.path.normpath(Path(table.root, row.path))
    inside, wrong = table.root.rstrip(os.sep) + os.sep, ""
    if not path.startswith(inside) or not os.path.realpath(path).startswith(inside):
        wrong = "is outside of the table's folder"
    else:
        try:
            status = os.stat(path)  # noqa: PTH116 - a million rows
            wrong = "" if stat.S_ISREG(status.st_mode) else "is not a file"
        except OSError as error:
            wrong = f"can't be read ({error.strerror})"
    if wrong:
        table.problems.add(row, f"{brief(row.path)} {wrong}")
        return None
    name = Path(path).relative_to(table.root).as_posix()
    return _Place(name, functools.partial(table.policy.read_image, Path(path)), status.st_size)


def _remote_places(rows: Iterable[TableRow], table: _Table) -> dict[int, _Place]:
    """Row number -> object, for the rows that name one that is there; problems for those that don't."""
    uris = {row: _address(row, table) for row in rows if _is_remote(row, table)}
    if not uris:
        return {}
    from tasks.images.sources.s3.client import client_for
    from tasks.images.sources.s3.objects import fetch
    from tasks.images.sources.table import remote

    client = client_for(table.policy)
    found = remote.locate((uri for uri in uris.values() if uri), table.policy)
    places = {}
    for row, uri in uris.items():
        stored = found.get(uri) if uri else None
        if isinstance(stored, SourceError):
            table.problems.add(row, str(stored))
        elif uri and stored:
            places[row.number] = _Place(uri, functools.partial(fetch, client, stored), stored.size, stored.version)
    return places


def _address(row: TableRow, table: _Table) -> str | None:
    from tasks.images.sources.s3.client import parse

    uri = row.path if row.path.startswith(_S3) else f"{table.root}/{row.path}"
    leaves = uri != row.path and (".." in row.path.split("/") or row.path.startswith("/"))
    try:
        address = parse(uri)
    except SourceError as error:
        table.problems.add(row, str(error))
        return None
    if leaves or not row.path or not address.key or address.key.endswith("/"):
        table.problems.add(
            row, f"{brief(row.path)} is not an object: s3://bucket/key, or a key below the table's prefix"
        )
        return None
    own = parse(table.root + "/").bucket if table.root.startswith(_S3) else None
    wrong = table.policy.wrong_with_bucket(address.bucket, own)
    if wrong:
        table.problems.add(row, wrong)
        return None
    return uri


def _add(row: TableRow, place: _Place, split: str | None, table: _Table) -> None:
    name, label, group = printable(place.name), class_name(row.label), printable(row.group) or None
    if place.size > table.policy.max_image_bytes:
        table.excluded.append(Excluded(f"{name} (row {row.number})", "too_large"))
        return
    item = SourceImage(name, label, split, place.read, place.version, group)
    first, other = table.items.setdefault(item.path, (row, item))
    if first is row:
        return
    differ = [
        f"{name} is {brief(mine)} here and {brief(theirs)} in row {first.number}"
        for name, mine, theirs in _pairs(row, first, item, other)
        if mine != theirs
    ]
    if differ:
        table.problems.add(row, f"{brief(row.path)} is given twice: {', '.join(differ)}")
    else:
        table.excluded.append(Excluded(f"{item.path} (row {row.number})", "duplicate_row"))


def _pairs(
    row: TableRow, first: TableRow, item: SourceImage, other: SourceImage
) -> Iterable[tuple[str, str | None, str | None]]:
    return [
        ("label", item.label, other.label),
        ("split", row.split.lower(), first.split.lower()),
        ("group", item.group, other.group),
    ]
