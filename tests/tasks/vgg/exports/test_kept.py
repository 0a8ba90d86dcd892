"""What the export keeps between runs: found again only for the same facts, whole, and not for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.vgg.exports import kept
from tasks.vgg.exports.kept import Kept

FILES = {"graph": b"abc", "folder/tensors": b"de"}


def keep(folder: Path, number: int, kind: str = "template") -> None:
    entries = Kept(folder)
    entries.add(kind, {"number": number}, FILES)
    assert entries.find(kind, {"number": number}) is None, "not before the checks have ended"
    entries.write()


def test_kept_files_are_found_for_the_same_facts_only(tmp_path: Path) -> None:
    keep(tmp_path, 1)
    assert Kept(tmp_path).find("template", {"number": 1}) == FILES
    assert Kept(tmp_path).find("template", {"number": 2}) is None
    assert Kept(tmp_path).find("reference", {"number": 1}) is None


@pytest.mark.parametrize("part", ["_code_sha256", "_versions"])
def test_kept_files_are_not_used_by_other_code_or_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    keep(tmp_path, 1)
    monkeypatch.setattr(kept, part, lambda: "other")
    assert Kept(tmp_path).find("template", {"number": 1}) is None


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": lambda entry: (entry / "graph").write_bytes(b"abd"),
    "cut": lambda entry: (entry / "folder/tensors").write_bytes(b"d"),
    "missing": lambda entry: (entry / "graph").unlink(),
    "no checksums": lambda entry: (entry / "sha256.json").write_text("[1", encoding="utf-8"),
    "odd checksums": lambda entry: (entry / "sha256.json").write_text("3", encoding="utf-8"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_kept_files_are_not_used_and_replaced(tmp_path: Path, damage: str) -> None:
    keep(tmp_path, 1)
    [entry] = tmp_path.iterdir()
    DAMAGE[damage](entry)
    keep(tmp_path, 1)
    assert Kept(tmp_path).find("template", {"number": 1}) == FILES


def test_entries_that_were_not_used_for_the_longest_time_are_deleted(tmp_path: Path) -> None:
    for number in range(3):
        keep(tmp_path, number)
        keep(tmp_path, number, "reference")
    assert Kept(tmp_path).find("template", {"number": 0}) == FILES
    keep(tmp_path, 3)
    found = [Kept(tmp_path).find("template", {"number": number}) is not None for number in range(4)]
    assert found == [True, False, True, True]
    assert len(list(tmp_path.glob("reference-*"))) == 3


def test_a_failure_clears_what_was_kept(tmp_path: Path) -> None:
    keep(tmp_path / "exports", 1)
    Kept(tmp_path / "exports").clear()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_only_what_would_be_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exports"
    folder.write_bytes(b"")
    keep(folder, 1)
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"export: The next export starts anew, because {folder} can't be written: File exists."
