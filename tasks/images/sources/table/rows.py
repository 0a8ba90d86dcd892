"""The rows of a CSV or Parquet table with their numbers, and the problems in them."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import SourceError
from tasks.images.sources.layout import printable
from tasks.images.sources.policy import SourcePolicy

_DELIMITERS = (",", ";", "\t")
_KNOWN = ("path", "label", "split", "group")
ABOUT = "about_"
"""The start of the names of all other columns."""
_ABOUT_LENGTH = 100
_SHOWN = 20
_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row; `number` is its line in a CSV file, or counts from 1 in Parquet. Missing cells are empty.

    `about` holds the other columns that aren't empty, without the start of their names, as JSON; None if all are empty.
    """

    number: int
    path: str
    label: str = ""
    split: str = ""
    group: str = ""
    about: str | None = None


@dataclass
class Problems:
    """The problems in the rows of a table; they are reported together."""

    table: str
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, row: TableRow | int, what: str) -> None:
        self.found.append((row if isinstance(row, int) else row.number, what))

    def raise_if_any(self) -> None:
        if self.found:
            told = [f"  row {number}: {what}" for number, what in sorted(self.found)[:_SHOWN]]
            more = [f"  and {len(self.found) - _SHOWN} more"] if len(self.found) > _SHOWN else []
            lines = "\n".join([*told, *more])
            raise SourceError(f"The table {self.table!r} has {len(self.found)} errors in its rows. Fix them:\n{lines}")


def brief(word: str | None) -> str:
    """A cell's text for a message: quoted, printable, at most 80 characters."""
    quoted = repr(word)
    return quoted if len(quoted) <= 80 else f"{quoted[:79]}..."


def columns_of(data: bytes, table: str, policy: SourcePolicy) -> list[str]:
    """The names of the columns; of a CSV file the first lines are enough.

    Raises:
        SourceError: the columns are wrong, or the table can't be read.
    """
    if data.startswith(_PARQUET_MAGIC):
        return _checked(_names(_parquet(data, table, policy).schema_arrow.names), table, _needed(policy))
    return _header(_text(data, table), table, _needed(policy))[1]


def read_rows(data: bytes, table: str, policy: SourcePolicy, problems: Problems) -> Iterator[TableRow]:
    """Every row that has as many fields as the header; the others go to `problems`.

    Raises:
        SourceError: see `columns_of`; or the rest of the table can't be read.
    """
    if data.startswith(_PARQUET_MAGIC):
        yield from _parquet_rows(_parquet(data, table, policy), table, _needed(policy))
    else:
        yield from _csv_rows(_text(data, table), table, _needed(policy), problems)


def _needed(policy: SourcePolicy) -> tuple[str, ...]:
    """The columns that must be there."""
    return _KNOWN[:2] if policy.labelled else _KNOWN[:1]


def _text(data: bytes, table: str) -> TextIO:
    """The text of a CSV file, decoded as it is read: all of it at once would take up to four bytes a character."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise SourceError(
            f"The table {table!r} is not UTF-8: byte {data[error.start]:#04x} in row {row}. "
            "Save it as UTF-8 (in a spreadsheet: CSV UTF-8)."
        ) from None
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")


def _header(text: TextIO, table: str, needed: tuple[str, ...]) -> tuple[str, list[str]]:
    """The delimiter and the names of the columns."""
    line = next((line for line in text if line.strip()), "")
    text.seek(0)
    try:
        splits = {mark: _names(next(csv.reader([line], delimiter=mark), [])) for mark in _DELIMITERS}
    except csv.Error as error:
        raise SourceError(f"The table {table!r} has no header that can be read ({error}).") from None
    for mark, names in splits.items():
        if set(needed) <= set(names):
            return mark, _checked(names, table, needed)
    return "", _checked(max(splits.values(), key=len), table, needed)


def _names(fields: Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in fields]


def _checked(names: list[str], table: str, needed: tuple[str, ...]) -> list[str]:
    expected = f"{', '.join(needed)}, and optionally {', '.join(_KNOWN[len(needed) :])}, {ABOUT}NAME"
    others = {*names} - {*_KNOWN}
    unknown = [name for name in others if not name.startswith(ABOUT) or name == ABOUT]
    if not set(needed) <= set(names) or unknown or len(set(names)) < len(names):
        raise SourceError(
            f"The table {table!r} has the wrong columns. Expected: {expected}, each once and no others. "
            f"Found: {', '.join(brief(name) for name in names[:_SHOWN]) or 'none'}"
        )
    return names


def _csv_rows(text: TextIO, table: str, needed: tuple[str, ...], problems: Problems) -> Iterator[TableRow]:
    mark, names = _header(text, table, needed)
    reader = csv.reader(text, delimiter=mark, strict=True)
    start, is_header = 1, True
    try:
        for fields in reader:
            number, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in fields):
                continue
            if is_header:
                is_header = False
            elif len(fields) != len(names):
                problems.add(number, f"{len(fields)} fields instead of {len(names)} ({', '.join(names)})")
            else:
                yield _row(number, names, fields)
    except csv.Error as error:
        problems.add(start, f"not CSV from here on: {error} (an open quote?)")


def _parquet(data: bytes, table: str, policy: SourcePolicy) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    except (OSError, ValueError) as error:
        raise _damaged(table, error) from None
    policy.check_memory(f"The table {table!r}", sum(group.total_byte_size for group in groups))
    return file


def _parquet_rows(file: pq.ParquetFile, table: str, needed: tuple[str, ...]) -> Iterator[TableRow]:
    written = file.schema_arrow.names
    names = _checked(_names(written), table, needed)
    number = 0
    try:
        for batch in file.iter_batches(batch_size=10_000):
            columns = [column.to_pylist() for column in batch.columns]
            for cells in zip(*columns, strict=True):
                number += 1
                yield _row(number, names, ["" if cell is None else str(cell) for cell in cells])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(table, error) from None


def _row(number: int, names: list[str], cells: Sequence[str]) -> TableRow:
    """A row without spaces around its cells, except around the path: a file's name may begin or end with a space."""
    given = {name: cell if name == "path" else cell.strip() for name, cell in zip(names, cells, strict=True)}
    about = {
        printable(name.removeprefix(ABOUT)): printable(given.pop(name))[:_ABOUT_LENGTH]
        for name in sorted(names)
        if name.startswith(ABOUT)
    }
    told = {name: cell for name, cell in about.items() if cell}
    known = {name: cell if name == "path" else sys.intern(cell) for name, cell in given.items()}
    return TableRow(number, **known, about=sys.intern(json.dumps(told, ensure_ascii=False)) if told else None)


def _damaged(table: str, error: Exception) -> SourceError:
    said = " ".join(str(error).split())[:200]
    return SourceError(f"The table {table!r} is damaged ({said}). Write it again, or give it as CSV.")
