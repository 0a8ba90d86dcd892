"""A listing that nobody waits for ends, and a listing for a plan downloads nothing."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from tasks import ingest, plan
from tasks.images.sources import SourcePolicy, discover
from tasks.images.sources.policy import ListingStopped
from tasks.workspace import Workspace
from tests.tasks.images.sources.making import FLOWERS, files_of, make_csv, make_tar, make_zip, split_source, tar_bytes
from tests.tasks.images.sources.policies import policy
from tests.tasks.images.sources.storing import Bucket
from tests.tasks.steps import Change, settings_for
from tests.waiting import wait_until

PAGE = """<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
<NextContinuationToken>{number}</NextContinuationToken>
<Contents><Key>p/a/{number}</Key><ETag>"0"</ETag><Size>1</Size></Contents>
<CommonPrefixes><Prefix>p/a/</Prefix></CommonPrefixes></ListBucketResult>"""
PAGES = 60


def unwanted(allowed: SourcePolicy) -> SourcePolicy:
    return dataclasses.replace(allowed, is_wanted=lambda: False)


@pytest.mark.parametrize("kind", ["folder", "csv", "zip", "tar", "tar.gz"])
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "known"])
def test_listing_of_every_kind_is_stopped(kind: str, is_first: bool, tmp_path: Path) -> None:
    root = split_source(tmp_path / "images")
    files = files_of(root)
    uri = {
        "folder": lambda: root,
        "csv": lambda: make_csv(root / "t.csv", [("path", "label"), *((name, name.split("/")[1]) for name in files)]),
        "zip": lambda: make_zip(tmp_path / "f.zip", files.items()),
    }.get(kind, lambda: make_tar(tmp_path / f"f.{kind}", files.items()))()
    allowed = policy(tmp_path)
    if not is_first:
        discover(str(uri), allowed)
    with pytest.raises(ListingStopped):
        discover(str(uri), unwanted(allowed))
    assert not list(tmp_path.rglob("*.partial"))
    assert len(discover(str(uri), allowed).images) == len(files)


def test_stopped_unpacking_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, allowed = make_tar(tmp_path / "f.tar.gz", FLOWERS.items()), policy(tmp_path)
    allowed.cache.digest_of(path)
    monkeypatch.setattr("tasks.images.sources.archive.tars._CHUNK", 512)
    few = iter([True] * 3)
    with pytest.raises(ListingStopped):
        discover(str(path), dataclasses.replace(allowed, is_wanted=lambda: next(few, False)))
    assert not [
        path for path in (tmp_path / ".rootstock/sources/unpacked").rglob("*") if path.is_file() and path.stat().st_size
    ]
    assert len(discover(str(path), allowed).images) == len(FLOWERS)


def test_listing_that_the_plan_gave_up_asks_for_nothing_more(
    workspace: Path, bucket: Bucket, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "LISTING_LIMIT_S", 1.0)
    for number in range(PAGES):
        bucket.proxy.add(path="list-type=2", body=PAGE.format(number=number).encode(), times=1, delay_s=0.1)
    assert plan.read_news(settings_for(change, bucket.uri("p")), Workspace.at(workspace)) is None
    wait_until(lambda: plan.LISTER not in {one.name for one in threading.enumerate()}, "the listing's end")
    assert 1 < bucket.proxy.count("GET", "list-type=2") < PAGES / 2


def test_plan_downloads_no_archive(workspace: Path, bucket: Bucket, change: Change) -> None:
    bucket.put(
        "f.tar",
        body=tar_bytes(
            (name.replace("/", f"/{number}"), data) for number in range(5) for name, data in FLOWERS.items()
        ),
    )
    settings = settings_for(change, bucket.uri("f.tar"), "prepare.min_images_per_class=2")
    assert plan.read_news(settings, Workspace.at(workspace)) is None
    assert bucket.proxy.count("GET") == 0
    ingest.run(settings, Workspace.at(workspace))
    assert bucket.proxy.count("GET") == 1
    assert plan.read_news(settings, Workspace.at(workspace)) is not None
    assert bucket.proxy.count("GET") == 1
