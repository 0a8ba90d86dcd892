"""What `prepare` wrote, for its tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.files import read_json
from tasks.images.manifest import read_examples, read_quarantine
from tasks.workspace import PREPARED
from tests.conftest import contents


def counts(workspace: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(workspace / PREPARED / "summary.json")
    return found


def splits(workspace: Path) -> dict[str, str]:
    return {example.path: example.split for example in read_examples(workspace / PREPARED)}


def prepared(workspace: Path) -> dict[str, bytes]:
    return contents(workspace / PREPARED)


def codes(workspace: Path) -> dict[str, str]:
    return {row.path: row.code for row in read_quarantine(workspace / PREPARED)}


def run_tables(workspace: Path) -> dict[str, bytes]:
    folder = workspace / PREPARED
    return {path.name: path.read_bytes() for path in folder.glob("*.*")} if folder.exists() else {}
