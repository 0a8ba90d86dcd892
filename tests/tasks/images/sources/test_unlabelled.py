"""A source whose images need no labels, as for scoring: they may lie anywhere in it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.errors import SourceError
from tasks.images.sources import SourcePolicy, discover
from tasks.settings import Settings
from tasks.workspace import Workspace
from tests.conftest import save_image


@pytest.fixture
def policy(workspace: Path, change: object) -> SourcePolicy:
    settings: Settings = change()  # type: ignore[operator]
    return replace(SourcePolicy.of(settings, Workspace.at(workspace)), labelled=False)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Three images: beside each other, and in one folder with the name of a split."""
    for name in ("b.png", "a.png", "train/c.png"):
        save_image(tmp_path / "flat" / name, "ant", 0)
    (tmp_path / "flat/.DS_Store").touch()
    return tmp_path / "flat"


def test_unlabelled_folder_and_archive_list_images_that_lie_anywhere(flat: Path, policy: SourcePolicy) -> None:
    shutil.make_archive(str(flat), "zip", flat)
    for uri in (str(flat), f"{flat}.zip"):
        listing = discover(uri, policy)
        assert [image.path for image in listing.images] == ["a.png", "b.png", "train/c.png"]
        assert [entry.reason for entry in listing.excluded] == ["system_file"]
        with pytest.raises(SourceError):
            discover(uri, replace(policy, labelled=True))


def test_unlabelled_table_needs_paths_only_and_lists_a_missing_file(flat: Path, policy: SourcePolicy) -> None:
    table = flat / "images.csv"
    table.write_text("path\nb.png\nno.png\ntrain/c.png\n")
    listing = discover(str(table), policy)
    assert [image.path for image in listing.images] == ["b.png", "train/c.png"]
    assert [(entry.path, entry.reason) for entry in listing.excluded] == [("no.png", "gone")]
    with pytest.raises(SourceError, match="wrong columns"):
        discover(str(table), replace(policy, labelled=True))
