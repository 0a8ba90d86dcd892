"""A table of images: `.csv` or `.parquet` with the columns `path,label[,split][,group]`, local or in S3.

Paths are relative to the table's folder. Absolute paths and `..` are allowed if they end inside that folder. Paths may
also be `s3://` objects, in the table's own bucket or in a bucket of `source.s3_buckets`. CSV is UTF-8 with comma,
semicolon or tab as delimiter; the header shows which. A misspelt or unknown column is refused, because images would
leak between splits without their `split` or `group`. Splits are `train`, `val`/`valid`/`validation` and `test`, by the
same rule as for folders. If two rows have the same path, the second row is excluded if it is equal; a different class,
split or group is an error. All errors are reported at once, with their rows.
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
    """The place of a row's image: its unique name, functions to read it and its head, its size and its version."""

    name: str
    read: Callable[[], bytes]
    read_head: Callable[[], bytes] | None
    size: int
    version: str | None = None


@dataclass
class _Table:
    """A table's address, and the entries and problems found so far."""

    root: str
    problems: Problems
    policy: SourcePolicy
    items: dict[str, tuple[TableRow, SourceImage]] = field(default_factory=dict)
    excluded: list[Excluded] = field(default_factory=list)


def check(uri: str, policy: SourcePolicy) -> None:
    """Check that the table exists and has the right columns.

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
    """List every row, as an image of a class or as excluded with the reason.

    Raises:
        SourceError: see `check`; or rows are wrong: the message shows the first twenty and counts the others.
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
    """The place of a file below the table's folder; None if there is a problem, which is noted."""
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
    read = functools.partial(table.policy.read_image, Path(path))
    return _Place(name, read, functools.partial(table.policy.read_head, Path(path)), status.st_size)


def _remote_places(rows: Iterable[TableRow], table: _Table) -> dict[int, _Place]:
    """Row number -> the place of its object; problems of other rows are noted."""
    uris = {row: _address(row, table) for row in rows if _is_remote(row, table)}
    if not uris:
        return {}
    from tasks.images.sources.s3.client import client_for
    from tasks.images.sources.s3.objects import fetch, head_reader
    from tasks.images.sources.table import remote

    client = client_for(table.policy)
    found = remote.locate((uri for uri in uris.values() if uri), table.policy)
    places = {}
    for row, uri in uris.items():
        stored = found.get(uri) if uri else None
        if isinstance(stored, SourceError):
            table.problems.add(row, str(stored))
        elif uri and stored:
            read, read_head = functools.partial(fetch, client, stored), head_reader(client, stored)
            places[row.number] = _Place(uri, read, read_head, stored.size, stored.version)
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
    item = SourceImage(name, label, split, place.read, place.version, group, place.size, place.read_head)
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
