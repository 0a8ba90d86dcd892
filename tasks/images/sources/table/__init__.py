"""A table of images: `.csv` or `.parquet` with the columns `path,label[,split][,group][,about_...]`, local or in S3.

Paths are relative to the table's folder. Absolute paths and `..` are allowed if they end inside that folder. Paths may
also be `s3://` objects, in the table's own bucket or in a bucket of `source.s3_buckets`. CSV is UTF-8 with comma,
semicolon or tab as delimiter; the header shows which. A misspelt or unknown column is refused, because images would
leak between splits without their `split` or `group`. Columns whose names start with `about_` tell about the images.
Splits are `train`, `val`/`valid`/`validation` and `test`, by the same rule as for folders. If two rows have the same
path, the second row is excluded if it is equal; a different class, split or group is an error. All errors are reported
at once, with their rows.
"""

from __future__ import annotations

import os
from pathlib import Path

from tasks.images.sources.layout import kept_splits
from tasks.images.sources.listing import SourceListing
from tasks.images.sources.policy import SourcePolicy
from tasks.images.sources.table.entries import Table
from tasks.images.sources.table.rows import columns_of, read_rows

_S3 = "s3://"
_HEAD_BYTES = 64 << 10


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
    table = Table(uri, root, policy)
    rows = list(policy.watched(read_rows(_read(uri, policy), uri, policy, table.problems)))
    splits = kept_splits({row.split for row in rows})
    some_splits = any(row.split for row in rows)
    table.locate(rows)
    for row in policy.watched(rows):
        table.add(row, splits.get(row.split), some_splits)
    table.problems.raise_if_any()
    return SourceListing.of(table.entries)


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
