"""The same pictures through every kind of source give the same examples and splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import prepare
from tasks.pictures.manifest import read_examples
from tests.tasks.pictures.sources.making import files_of, make_csv, make_tar, make_zip, split_source
from tests.tasks.pictures.sources.storing import Bucket
from tests.tasks.steps import Change, run_prepare, settings_for

Known = set[tuple[str, str, str]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return split_source(tmp_path / "pictures")


def examples_of(source: Path | str, workspace: Path, change: Change) -> Known:
    """What `prepare` accepts of a source: content, class and split of each picture."""
    summary = run_prepare(settings_for(change, source), workspace)
    found = {(row.key, row.label, row.split) for row in read_examples(workspace / prepare.PREPARED)}
    assert len(found) == summary.accepted
    return found


def test_archives_and_tables_give_the_same_examples_as_the_folder(
    pictures: Path, tmp_path: Path, workspace: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    wanted = examples_of(pictures, workspace, change)
    assert {split for _, _, split in wanted} == {"train", "validation", "test"}
    files = files_of(pictures)
    rows = [(name, name.split("/")[1], {"train": "train", "val": "test"}[name.split("/")[0]]) for name in files]
    sources = (
        make_zip(tmp_path / "pictures.zip", files.items()),
        make_tar(tmp_path / "pictures.tar.gz", files.items()),
        make_csv(pictures / "pictures.csv", [("path", "label", "split"), *rows]),
    )
    for source in sources:
        assert examples_of(source, workspace, change) == wanted, source


def test_bucket_gives_the_same_examples_as_the_folder_and_is_not_downloaded_twice(
    pictures: Path, bucket: Bucket, workspace: Path, change: Change
) -> None:
    wanted = examples_of(pictures, workspace, change)
    for name, body in files_of(pictures).items():
        bucket.put(f"set/{name}", body=body)
    uri = bucket.uri("set")
    assert examples_of(uri, workspace, change) == wanted
    before = bucket.proxy.count("GET", "/set/train/")
    assert before > 0
    assert examples_of(uri, workspace, change) == wanted
    assert bucket.proxy.count("GET", "/set/train/") == before
