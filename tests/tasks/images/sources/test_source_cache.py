"""The cache of sources: made once for all runs of a clone, never damaged, limited, never swept while it is in use."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks import ingest, plan
from tasks.images.sources import source_cache
from tasks.images.sources.archive import tars
from tasks.images.sources.source_cache import SourceCache
from tasks.workspace import Workspace
from tests.conftest import PROJECT
from tests.tasks.images.sources.making import FLOWERS, compress, let_rest, make_archive, tar_bytes
from tests.tasks.images.sources.storing import Bucket
from tests.tasks.steps import Change


@pytest.fixture
def cache(tmp_path: Path) -> SourceCache:
    return SourceCache(tmp_path / "cache")


def writing(data: bytes, made: list[bytes] | None = None) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(data)
        if made is not None:
            made.append(data)

    return make


def refuse(_path: Path) -> None:
    raise AssertionError("it was made again")


def entries(cache: SourceCache) -> set[bytes]:
    return {path.read_bytes() for path in cache.folder.glob("kind/*/data")}


def rest(path: Path, seconds: float) -> None:
    """Let an entry be used so many seconds ago."""
    os.utime(path.parent, (time.time() - seconds, time.time() - seconds))


def deployed(tmp_path: Path, name: str) -> Workspace:
    return Workspace.at(tmp_path / "clone/.rootstock/runs" / name).belong_to(tmp_path / "clone")


def test_runs_of_a_clone_download_and_unpack_a_source_once(
    tmp_path: Path, bucket: Bucket, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("f.tar.gz", body=compress(tar_bytes(FLOWERS.items()), "gz"))
    settings = change(f"source.uri={bucket.uri('f.tar.gz')}")
    for name in ("monday", "tuesday"):
        run = deployed(tmp_path, name)
        monkeypatch.chdir(run.folder)
        assert ingest.run(settings, run).packed == len(FLOWERS)
        shutil.rmtree(run.folder)
        assert bucket.proxy.count("GET") == (1 if name == "monday" else 0)
        bucket.proxy.clear()
        monkeypatch.setattr(tars, "_copy", None)  # unpacking would fail
        monkeypatch.setattr(source_cache, "file_sha256", None)  # so would reading it all


def test_run_finds_nothing_changed_in_what_the_run_before_packed(
    tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_archive(tmp_path / "f.tar.gz", {**FLOWERS, "tulip/2.jpg": b"BM gold"})
    settings = change(f"source.uri={tmp_path / 'f.tar.gz'}", "prepare.min_images_per_class=2")
    first, second = deployed(tmp_path, "monday"), deployed(tmp_path, "tuesday")
    ingest.run(settings, first)
    shutil.copytree(first.raw, second.raw)  # DVC brings it
    monkeypatch.setattr(tars, "_copy", None)
    news = plan.read_news(settings, second)
    assert news is not None
    assert (news.new, news.gone, news.unversioned, news.rearranged) == (0, 0, 0, False)


def test_relative_archive_lies_in_the_workspace(tmp_path: Path, change: Change) -> None:
    run = deployed(tmp_path, "monday")
    make_archive(run.folder / "f.zip", FLOWERS)
    assert ingest.run(change("source.uri=f.zip"), run).packed == len(FLOWERS)
    assert not (run.folder / ".rootstock/sources").exists()


def test_entry_is_made_once_by_many_threads(cache: SourceCache) -> None:
    made: list[bytes] = []
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cache.keep("kind", "a", "1", writing(b"x", made)), range(40)))
    assert made == [b"x"]
    [(path, digest)] = set(found)
    assert (path.read_bytes(), digest) == (b"x", hashlib.sha256(b"x").hexdigest())


CONTEND = """
import sys
from pathlib import Path
from tasks.images.sources.source_cache import SourceCache

cache, me = SourceCache(Path(sys.argv[1])), sys.argv[2]
for content in map(str, range(30)):
    def make(path):
        path.write_bytes(content.encode())
        with open(sys.argv[3], "a") as log:
            log.write(f"{content}\\n")
    path, _ = cache.keep("kind", "a", content, make)
    with open(path, "rb") as file:
        assert file.read() == content.encode()
"""


def test_entries_are_made_once_and_spared_while_processes_contend(tmp_path: Path, cache: SourceCache) -> None:
    command = [sys.executable, "-c", CONTEND, str(cache.folder)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    children = [subprocess.Popen([*command, str(n), str(tmp_path / "made")], env=environment) for n in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert sorted(map(int, (tmp_path / "made").read_text().split())) == list(range(30))


def test_entry_that_is_finished_before_the_sweeper_gets_its_lock_stays(
    cache: SourceCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError):
        cache.keep("kind", "a", "1", refuse)
    locked = source_cache._locked

    def finish_first(entry: Path, wait: bool = True) -> contextlib.AbstractContextManager[bool]:
        if not wait:
            with locked(entry):
                (entry / "data").write_bytes(b"x")
                source_cache._note(entry, hashlib.sha256(b"x").hexdigest())
        return locked(entry, wait)

    monkeypatch.setattr(source_cache, "_locked", finish_first)
    cache.keep("kind", "a", "2", writing(b"y"))
    monkeypatch.undo()
    assert cache.keep("kind", "a", "1", refuse)[0].read_bytes() == b"x"


@pytest.mark.parametrize("harm", ["flip", "cut", "lose", "note"])
def test_damaged_entry_is_made_again(cache: SourceCache, harm: str) -> None:
    path, _ = cache.keep("kind", "a", "1", writing(b"whole"))
    if harm == "note":
        (path.parent / "note.json").write_text('{"identity": ')
    elif harm == "lose":
        path.unlink()
    else:
        path.write_bytes(b"whol" if harm == "cut" else b"whale")
    made: list[bytes] = []
    assert cache.keep("kind", "a", "1", writing(b"whole", made))[0].read_bytes() == b"whole"
    assert made


def test_entry_of_a_clone_that_was_copied_is_used(cache: SourceCache, tmp_path: Path) -> None:
    cache.keep("kind", "a", "1", writing(b"x"))
    shutil.copytree(cache.folder, tmp_path / "copy")
    assert SourceCache(tmp_path / "copy").keep("kind", "a", "1", refuse)[0].read_bytes() == b"x"


def test_failure_to_make_an_entry_is_raised_and_leaves_what_can_be_resumed(cache: SourceCache) -> None:
    def fail(path: Path) -> None:
        path.with_name("part").write_bytes(b"half")
        path.with_name(".data.999999999.partial").write_bytes(b"of a killed writer")
        raise FileNotFoundError

    def resume(path: Path) -> None:
        assert {file.name for file in path.parent.iterdir()} == {"part"}
        path.with_name("part").rename(path)

    with pytest.raises(FileNotFoundError):
        cache.keep("kind", "a", "1", fail)
    assert cache.keep("kind", "a", "1", resume)[0].read_bytes() == b"half"


def test_newer_content_of_a_group_supersedes_the_older_one_after_an_hour(cache: SourceCache) -> None:
    old, _ = cache.keep("kind", "a", "1", writing(b"old"))
    cache.keep("kind", "b", "1", writing(b"other"))
    cache.keep("kind", "a", "2", writing(b"new"))
    assert entries(cache) == {b"old", b"other", b"new"}
    rest(old, 3700)
    cache.keep("kind", "a", "2", refuse)
    assert entries(cache) == {b"other", b"new"}
    assert len(list(cache.folder.glob("kind/*.lock"))) == 2


def test_entries_that_were_used_within_two_weeks_are_kept(cache: SourceCache) -> None:
    nightly, _ = cache.keep("kind", "a", "1", writing(b"nightly"))
    abandoned, _ = cache.keep("kind", "b", "1", writing(b"abandoned"))
    rest(nightly, 13 * 86400)
    rest(abandoned, 15 * 86400)
    cache.keep("kind", "c", "1", writing(b"new"))
    assert entries(cache) == {b"nightly", b"new"}
    rest(nightly, 13 * 86400)
    cache.keep("kind", "a", "1", refuse)  # which is a use
    assert time.time() - nightly.parent.stat().st_mtime < 3600


def test_entries_are_no_more_than_so_many(cache: SourceCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_cache, "MAX_ENTRIES", 2)
    for number in range(6):
        path, _ = cache.keep("kind", str(number), "1", writing(b"%d" % number))
        rest(path, 86400 - number)
    cache.keep("kind", "new", "1", writing(b"new"))
    assert entries(cache) == {b"4", b"5", b"new"}


def test_entry_that_is_being_made_is_not_swept(cache: SourceCache) -> None:
    def make(path: Path) -> None:
        path.with_name("part").write_bytes(b"half")
        cache.keep("kind", "a", "2", writing(b"meanwhile"))
        path.with_name("part").rename(path)

    assert cache.keep("kind", "a", "1", make)[0].read_bytes() == b"half"


def test_digest_of_a_file_that_changed_just_now_is_not_remembered(tmp_path: Path, cache: SourceCache) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    for _ in range(2):
        assert cache.digest_of(path) == hashlib.sha256(b"one").hexdigest()
        assert not list(cache.folder.rglob("*.json"))
        os.utime(path, (0, 0))  # sets the modification time, and the time of the last change to now


def test_digest_of_a_file_that_rests_is_read_once(
    tmp_path: Path, cache: SourceCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_cache, "_RACY_S", 0)
    path = tmp_path / "file"
    path.write_bytes(b"one")
    let_rest(path)
    digest = cache.digest_of(path)
    monkeypatch.setattr(source_cache, "file_sha256", None)
    assert cache.digest_of(path) == digest == hashlib.sha256(b"one").hexdigest()
