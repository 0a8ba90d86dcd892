"""The tables that pass between stages: discovered entries, examples, quarantined images, duplicates, splits.

Always: discovered = accepted (examples) + quarantined + excluded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.errors import IntegrityError
from tasks.files import stream_table, write_table
from tasks.images.reason_codes import RefusalCode, Refused

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Discovered:
    """One entry of the source. `key` (SHA-256 of the bytes) is empty for entries that are excluded or refused.

    `refused` is the reason code of a file that is no image by its first bytes; it isn't packed, but quarantined.
    `version` changes whenever the bytes may have changed, if the source can tell. Images with the same `group` stay
    together. `about` is a JSON object of strings: what the source tells about the image besides.
    """

    path: str
    label: str
    split: str | None
    key: str
    excluded: str | None
    version: str | None = None
    group: str | None = None
    refused: str | None = None
    detail: str | None = None
    about: str | None = None

    @property
    def refusal(self) -> Refused | None:
        return Refused(RefusalCode(self.refused), self.detail or "") if self.refused else None


@dataclass(frozen=True, slots=True)
class Example:
    """One accepted image. `key` is the SHA-256 (hex) of its original bytes; sizes are of the original.

    `about` is a JSON object of strings: what the source tells about the image besides.
    """

    key: str
    path: str
    label: str
    split: str
    width_px: int
    height_px: int
    format: str
    notes: str
    group: str | None = None
    about: str | None = None


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One refused image, with the reason code and a detail. `sha256` is empty if the bytes weren't read."""

    path: str
    sha256: str
    label: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """An image that repeats another one. The splits come from the source; they are empty if it assigns none.

    Attributes:
        kind: `same_bytes`, `same_pixels`, `near` (a near duplicate), or `group` (the source's group).
        outcome: `left_out`; `left_out_as_leak`: the other image is held out; `kept_together`: both are in one split;
            `kept_apart`: both are split like different images, because too many of their class look alike.
    """

    path: str
    label: str
    split: str
    of_path: str
    of_split: str
    kind: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What the next run must know about the splits.

    Attributes:
        splits: key -> split.
        apart: keys whose near duplicates are not kept together with them.
    """

    splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    apart: frozenset[str] = frozenset()


_TYPES = {"int": pa.int32()}


def _schema(kind: type) -> pa.Schema:
    """The columns of a table whose rows are dataclasses: integers, all others strings."""
    return pa.schema([(field.name, _TYPES.get(str(field.type), pa.string())) for field in dataclasses.fields(kind)])


_MEMORY = pa.schema([("key", pa.string()), ("split", pa.string()), ("apart", pa.bool_())])


def write_discovered(raw: Path, rows: list[Discovered]) -> None:
    write_table(raw / "manifest.parquet", _records(rows), _schema(Discovered))


def previous_discovered(raw: Path) -> list[Discovered]:
    """The entries that the last run discovered; empty without a last run, or if its table can't be read."""
    try:
        return read_discovered(raw)
    except (IntegrityError, TypeError):  # damaged, or of an older layout: the source is read again
        return []


def read_discovered(raw: Path) -> list[Discovered]:
    return [Discovered(**row) for row in stream_table(raw / "manifest.parquet")]


def write_examples(prepared: Path, rows: list[Example]) -> None:
    write_table(prepared / "examples.parquet", _records(rows), _schema(Example))


def read_examples(prepared: Path) -> list[Example]:
    """Accepted images, in the order of their paths."""
    return [Example(**row) for row in stream_table(prepared / "examples.parquet")]


def write_quarantine(prepared: Path, rows: list[Quarantined]) -> None:
    write_table(prepared / "quarantine.parquet", _records(rows), _schema(Quarantined))


def read_quarantine(prepared: Path) -> list[Quarantined]:
    """Refused images, in the order of their paths."""
    return [Quarantined(**row) for row in stream_table(prepared / "quarantine.parquet")]


def write_duplicates(prepared: Path, rows: list[Duplicate]) -> None:
    write_table(prepared / "duplicates.parquet", _records(rows), _schema(Duplicate))


def read_duplicates(prepared: Path) -> list[Duplicate]:
    """Images that repeat another one, in the order of their paths."""
    return [Duplicate(**row) for row in stream_table(prepared / "duplicates.parquet")]


def write_memory(prepared: Path, memory: Memory) -> None:
    """Write what the next run must know, so that images keep their splits."""
    rows = ({"key": key, "split": memory.splits[key], "apart": key in memory.apart} for key in sorted(memory.splits))
    write_table(prepared / "splits.parquet", rows, _MEMORY)


def read_memory(prepared: Path) -> Memory:
    """What `write_memory` wrote; a file of an older version has no column `apart`."""
    rows = list(stream_table(prepared / "splits.parquet"))
    return Memory({row["key"]: row["split"] for row in rows}, frozenset(row["key"] for row in rows if row.get("apart")))


def class_names(examples: Iterable[Example]) -> tuple[str, ...]:
    """The classes, sorted; a class has the same index here as in every array of probabilities."""
    return tuple(sorted({example.label for example in examples}))


def _records(rows: Sequence[Discovered | Example | Quarantined | Duplicate]) -> Iterator[dict[str, Any]]:
    """The rows as dicts; dataclasses.asdict takes ten times as long, because it copies all values."""
    names = [field.name for field in dataclasses.fields(rows[0])] if rows else []
    return ({name: getattr(row, name) for name in names} for row in rows)
