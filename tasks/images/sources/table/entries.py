"""Turns the rows of a table into entries of a listing: each row's file or object is looked up, and checked."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import SourceError
from tasks.images.sources.layout import SPLIT_NAMES, class_name, printable
from tasks.images.sources.listing import Excluded, SourceImage
from tasks.images.sources.local_files import LocalFiles
from tasks.images.sources.policy import SourcePolicy
from tasks.images.sources.table.rows import Problems, TableRow, brief

if TYPE_CHECKING:
    from tasks.images.sources.s3.images import StoredImages
    from tasks.images.sources.s3.objects import StoredObject

_S3 = "s3://"


class Table:
    """A table, and the entries and problems found so far.

    Args:
        name: of the table, for messages.
        root: the folder or prefix of relative paths.
        policy: what may be read.
    """

    def __init__(self, name: str, root: str, policy: SourcePolicy) -> None:
        self.problems = Problems(name)
        self.entries: list[SourceImage | Excluded] = []
        self._root, self._policy = root, policy
        self._inside = root.rstrip(os.sep) + os.sep
        self._files = LocalFiles(Path(root), policy.max_image_bytes)
        self._objects: StoredImages | None = None
        self._uris: dict[int, str] = {}
        self._stored: Mapping[str, StoredObject | SourceError] = {}
        self._first: dict[str, TableRow] = {}

    def locate(self, rows: list[TableRow]) -> None:
        """Look up the objects of all rows that name one, together; problems of other rows are noted."""
        remote = (row for row in rows if self._is_remote(row))
        self._uris = {row.number: uri for row in remote if (uri := self._address(row)) is not None}
        if self._uris:
            from tasks.images.sources.s3.client import client_for
            from tasks.images.sources.s3.images import StoredImages
            from tasks.images.sources.table import remote as stored

            self._objects = StoredImages(client_for(self._policy), "")
            self._stored = stored.locate(self._uris.values(), self._policy)

    def add(self, row: TableRow, split: str | None, some_splits: bool) -> None:
        """Add a row's image, or note what is wrong with the row.

        Args:
            row: a row of those that were given to `locate`.
            split: of its image.
            some_splits: rows of this table have splits.
        """
        self._check_words(row, some_splits)
        image = self._remote_image(row, split) if self._is_remote(row) else self._local_image(row, split)
        if image is None:
            return
        image = replace(image, about=row.about) if row.about else image
        if image.size_bytes > self._policy.max_image_bytes:
            self.entries.append(Excluded(f"{image.path} (row {row.number})", "too_large"))
            return
        first = self._first.setdefault(image.path, row)
        if first is row:
            self.entries.append(image)
        elif differ := _differences(row, first):
            self.problems.add(row, f"{brief(row.path)} is given twice: {', '.join(differ)}")
        else:
            self.entries.append(Excluded(f"{image.path} (row {row.number})", "duplicate_row"))

    def _check_words(self, row: TableRow, some_splits: bool) -> None:
        if not row.label and self._policy.labelled:
            self.problems.add(row, "the label is empty")
        if row.split and row.split.lower() not in SPLIT_NAMES:
            self.problems.add(row, f"unknown split {brief(row.split)}; known are {', '.join(SPLIT_NAMES)}")
        if some_splits and not row.split:
            self.problems.add(row, "no split, but other rows have one")

    def _is_remote(self, row: TableRow) -> bool:
        return row.path.startswith(_S3) or self._root.startswith(_S3)

    def _local_image(self, row: TableRow, split: str | None) -> SourceImage | None:
        """The image in a file below the table's folder; None if there is a problem, which is noted."""
        if not row.path or "\0" in row.path:
            self.problems.add(row, "the path holds a NUL" if row.path else "the path is empty")
            return None
        path = os.path.normpath(os.path.join(self._root, row.path))  # noqa: PTH118 - a million rows
        wrong, size = "", 0
        if not path.startswith(self._inside) or not os.path.realpath(path).startswith(self._inside):
            wrong = "is outside of the table's folder"
        else:
            try:
                status = os.stat(path)  # noqa: PTH116
                wrong, size = "" if stat.S_ISREG(status.st_mode) else "is not a file", status.st_size
            except OSError as error:
                if not self._policy.labelled:  # then it gets its row, as every image
                    self.entries.append(Excluded(printable(row.path), "gone"))
                    return None
                wrong = f"can't be read ({error.strerror})"
        if wrong:
            self.problems.add(row, f"{brief(row.path)} {wrong}")
            return None
        place = path.removeprefix(self._inside)
        place = row.path if row.path == place else place  # one object
        return SourceImage(printable(place), _label(row), split, self._files, place, None, _group(row), size)

    def _remote_image(self, row: TableRow, split: str | None) -> SourceImage | None:
        """The image in an object of S3; None if there is a problem; the first twenty are noted."""
        uri = self._uris.get(row.number, "")
        stored = self._stored.get(uri)
        if isinstance(stored, SourceError):
            self.problems.add(row, str(stored))
        if stored is None or isinstance(stored, SourceError) or self._objects is None:
            return None
        return self._objects.image(stored, uri, _label(row), split, _group(row))

    def _address(self, row: TableRow) -> str | None:
        """The address of a row's object; None if there is a problem, which is noted."""
        from tasks.images.sources.s3.client import parse

        uri = row.path if row.path.startswith(_S3) else f"{self._root}/{row.path}"
        leaves = uri != row.path and (".." in row.path.split("/") or row.path.startswith("/"))
        try:
            address = parse(uri)
        except SourceError as error:
            self.problems.add(row, str(error))
            return None
        if leaves or not row.path or not address.key or address.key.endswith("/"):
            self.problems.add(
                row, f"{brief(row.path)} is not an object: s3://bucket/key, or a key below the table's prefix"
            )
            return None
        own = parse(self._root + "/").bucket if self._root.startswith(_S3) else None
        wrong = self._policy.wrong_with_bucket(address.bucket, own)
        if wrong:
            self.problems.add(row, wrong)
            return None
        return uri


def _label(row: TableRow) -> str:
    return class_name(row.label)


def _group(row: TableRow) -> str | None:
    return printable(row.group) or None


def _differences(row: TableRow, first: TableRow) -> list[str]:
    """How a row differs from an earlier one with the same path, in words."""
    pairs = [
        ("label", _label(row), _label(first)),
        ("split", row.split.lower(), first.split.lower()),
        ("group", _group(row), _group(first)),
        ("what is told about it", row.about, first.about),
    ]
    return [
        f"{name} is {brief(mine)} here and {brief(theirs)} in row {first.number}"
        for name, mine, theirs in pairs
        if mine != theirs
    ]
