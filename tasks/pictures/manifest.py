"""The tables that stages hand on: what was discovered, what became an example, what was quarantined.

Always: discovered = accepted (examples) + quarantined + excluded.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tasks.files import read_table, write_table

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Discovered:
    """One entry of the source. `key` (SHA-256 of the bytes) is empty for what is excluded."""

    path: str
    label: str
    split: str | None
    key: str
    excluded: str | None


@dataclass(frozen=True)
class Example:
    """One accepted picture. `key` is the SHA-256 (hex) of its original bytes; sizes are those of the original."""

    key: str
    path: str
    label: str
    split: str
    width_px: int
    height_px: int
    format: str
    notes: str


@dataclass(frozen=True)
class Quarantined:
    """One refused picture, with the reason code and what was seen."""

    path: str
    sha256: str
    label: str
    code: str
    detail: str


_DISCOVERED = pa.schema(
    [
        ("path", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("key", pa.string()),
        ("excluded", pa.string()),
    ]
)
_EXAMPLES = pa.schema(
    [
        ("key", pa.string()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("format", pa.string()),
        ("notes", pa.string()),
    ]
)
_QUARANTINE = pa.schema([(name, pa.string()) for name in ("path", "sha256", "label", "code", "detail")])


def write_discovered(raw: Path, rows: list[Discovered]) -> None:
    write_table(raw / "manifest.parquet", [dataclasses.asdict(row) for row in rows], _DISCOVERED)


def read_discovered(raw: Path) -> list[Discovered]:
    return [Discovered(**row) for row in read_table(raw / "manifest.parquet")]


def write_examples(prepared: Path, rows: list[Example]) -> None:
    write_table(prepared / "examples.parquet", [dataclasses.asdict(row) for row in rows], _EXAMPLES)


def read_examples(prepared: Path) -> list[Example]:
    """Accepted pictures, in the order of their paths."""
    return [Example(**row) for row in read_table(prepared / "examples.parquet")]


def write_quarantine(prepared: Path, rows: list[Quarantined]) -> None:
    write_table(prepared / "quarantine.parquet", [dataclasses.asdict(row) for row in rows], _QUARANTINE)


def read_quarantine(prepared: Path) -> list[Quarantined]:
    """Refused pictures, in the order of their paths."""
    return [Quarantined(**row) for row in read_table(prepared / "quarantine.parquet")]


def class_names(examples: list[Example]) -> tuple[str, ...]:
    """The classes, sorted; a class's index in every array of probabilities is its place here."""
    return tuple(sorted({example.label for example in examples}))
