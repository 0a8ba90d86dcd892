"""Large objects as files: resumed by later runs, complete or absent, downloaded again only if they changed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.files import file_sha256
from tasks.images.sources import s3
from tasks.images.sources.s3 import objects
from tests.servers.fault_proxy import FaultProxy
from tests.tasks.images.sources.policies import policy
from tests.tasks.images.sources.storing import Bucket, flip, noise, refused, unavailable

PART = objects.PART_BYTES
LAST_RANGE = f"bytes={2 * PART}-"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder of its own, for the cache."""
    monkeypatch.chdir(tmp_path)


def download(bucket: Bucket) -> Path:
    path, digest = s3.download_object(bucket.uri("k"), policy())
    assert digest == file_sha256(path)
    return path


def stop_at_the_last_part(bucket: Bucket) -> None:
    """As a run that ended after two of three parts."""
    bucket.proxy.add(range=LAST_RANGE, status=403, code="ExpiredToken")
    assert "have expired" in refused(download, bucket)
    bucket.proxy.clear()


def partials() -> list[Path]:
    return list(Path().glob(".rootstock/sources/downloads/*/.data.download"))


def whole() -> list[Path]:
    return list(Path().glob(".rootstock/sources/downloads/*/data"))


def test_download_gives_the_whole_object_and_asks_once_when_it_did_not_change(bucket: Bucket) -> None:
    data = noise(2 * PART + 9)
    bucket.put("k", body=data)
    path = download(bucket)
    assert path.read_bytes() == data
    assert bucket.proxy.bytes_sent() == len(data)
    assert not partials()
    bucket.proxy.clear()
    assert download(bucket) == path
    assert (bucket.proxy.count(), bucket.proxy.count("HEAD")) == (1, 1)


@pytest.mark.parametrize("size", [0, 1, PART])
def test_download_of_small_objects(bucket: Bucket, size: int) -> None:
    bucket.put("k", body=noise(size))
    assert download(bucket).read_bytes() == noise(size)


def test_download_goes_on_in_the_next_run_where_it_ended(bucket: Bucket) -> None:
    data = noise(2 * PART + 9)
    bucket.put("k", body=data)
    stop_at_the_last_part(bucket)
    assert not whole()
    assert download(bucket).read_bytes() == data
    assert bucket.proxy.bytes_sent("GET") == 9


def test_download_drops_a_part_that_was_cut_off(bucket: Bucket) -> None:
    data = noise(2 * PART + 9)
    bucket.put_in_parts("k", data, 5 << 20)  # no MD5 that would tell
    stop_at_the_last_part(bucket)
    (partial,) = partials()
    with partial.open("ab") as file:
        file.truncate(PART)
        file.write(bytes(1000))
    assert download(bucket).read_bytes() == data
    assert bucket.proxy.bytes_sent("GET") == PART + 9


def test_download_of_an_object_that_changed_between_two_runs_starts_anew(bucket: Bucket) -> None:
    bucket.put("k", body=noise(2 * PART + 9, 1))
    stop_at_the_last_part(bucket)
    new = noise(2 * PART + 9, 2)
    bucket.put("k", body=new)
    assert download(bucket).read_bytes() == new
    assert bucket.proxy.bytes_sent("GET") == len(new)
    assert not partials()


def test_case_13_download_of_an_object_that_changes_meanwhile_keeps_the_old_file(bucket: Bucket) -> None:
    old = noise(PART + 1, 1)
    bucket.put("k", body=old)
    before = download(bucket)
    bucket.put("k", body=noise(2 * PART + 9, 2))
    bucket.proxy.add(range=LAST_RANGE, times=1, before=lambda: bucket.put("k", body=noise(2 * PART + 9, 3)))
    assert "changed while it was read" in unavailable(download, bucket)
    assert before.read_bytes() == old
    bucket.proxy.clear()
    assert download(bucket).read_bytes() == noise(2 * PART + 9, 3)


@pytest.mark.usefixtures("no_pauses")
def test_case_14_download_goes_on_where_the_connection_dropped(bucket: Bucket) -> None:
    data = noise(2 * PART + 9)
    bucket.put("k", body=data)
    bucket.proxy.add(method="GET", times=4, drop_after=1_000_000)
    assert download(bucket).read_bytes() == data
    assert bucket.proxy.bytes_sent() <= len(data) + 4 * (16 << 10)


def test_download_damaged_on_the_way_or_on_the_disk_is_made_anew(bucket: Bucket) -> None:
    data = noise(2 * PART + 9)
    bucket.put("k", body=data)
    stop_at_the_last_part(bucket)
    (partial,) = partials()
    partial.write_bytes(flip(partial.read_bytes()))
    assert download(bucket).read_bytes() == data


def test_download_that_stays_damaged_leaves_no_file(bucket: Bucket) -> None:
    bucket.put("k", body=noise(PART + 9))
    bucket.proxy.add(method="GET", change=flip)
    assert "is damaged: its bytes were read twice" in refused(download, bucket)
    assert not whole()
    assert not partials()


def test_download_again_when_the_file_is_not_what_was_written(bucket: Bucket) -> None:
    bucket.put("k", body=b"right")
    download(bucket).write_bytes(b"wrong")
    assert download(bucket).read_bytes() == b"right"


def test_download_of_one_file_by_two_at_once_is_made_once(bucket: Bucket) -> None:
    data = noise(2 * PART)
    bucket.put("k", body=data)
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(lambda _: download(bucket), range(3)))
    assert [path.read_bytes() for path in paths] == [data]
    assert bucket.proxy.bytes_sent("GET") == len(data)


def test_download_without_an_etag_is_read_in_one_piece_which_is_bounded(
    proxy: FaultProxy, account: pytest.MonkeyPatch
) -> None:
    account.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    proxy.add(body=b"one")
    first, second = (s3.download_object("s3://bucket/k", policy())[0] for _ in range(2))
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"one")
    assert first != second
    proxy.clear()
    proxy.add(body=b"one")
    message = refused(s3.download_object, "s3://bucket/k", policy(max_memory_bytes=2))
    assert "whose store gives no ETag, takes 3 bytes of memory; at most 2 are allowed" in message
    assert not proxy.count("GET")
