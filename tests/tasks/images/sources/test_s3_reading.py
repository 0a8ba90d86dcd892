"""Objects of S3 are read completely, in one version, with a check; otherwise the read is an error."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tasks.images.signatures import HEAD_BYTES
from tasks.images.sources import s3
from tasks.images.sources.reading import read_ahead
from tasks.images.sources.s3 import client, objects
from tests.servers.fault_proxy import FaultProxy
from tests.tasks.images.sources.policies import policy
from tests.tasks.images.sources.storing import Bucket, flip, listed, noise, only, refused, unavailable

PART = objects.PART_BYTES


def test_s3_version_tells_new_bytes_of_the_same_size(bucket: Bucket) -> None:
    bucket.put("p/a/1", body=b"old")
    before = only(s3.discover(bucket.uri("p"), policy()))
    bucket.put("p/a/1", body=b"new")
    after = only(s3.discover(bucket.uri("p"), policy()))
    assert (after.version != before.version, after.read()) == (True, b"new")


@pytest.mark.usefixtures("no_pauses")
def test_s3_store_without_etags_is_never_resumed(bucket: Bucket) -> None:
    """Nothing would tell that the second answer is of the version of the first."""
    data = noise(PART + 5)
    bucket.proxy.add(path="list-type=2", body=listed(("p/a/1", data, "")))
    bucket.proxy.add(path="/p/a/1", times=1, body=bytes(len(data)), drop_after=500_000)
    bucket.proxy.add(path="/p/a/1", body=data)
    assert only(s3.discover(bucket.uri("p"), policy())).read() == data
    assert [one.range for one in bucket.proxy.requests("GET", "/p/a/1")] == ["", ""]


def test_s3_small_object_is_one_request_and_a_large_one_is_read_in_parts(bucket: Bucket) -> None:
    small, large = noise(PART, 1), noise(2 * PART + 5, 2)
    bucket.put("p/a/small", body=small)
    bucket.put("p/a/large", body=large)
    items = {item.path: item for item in s3.discover(bucket.uri("p"), policy()).images}
    assert items["a/small"].read() == small
    assert [one.range for one in bucket.proxy.requests("GET", "small")] == [""]
    assert items["a/large"].read() == large
    requests = bucket.proxy.requests("GET", "large")
    assert {one.range for one in requests} == {
        f"bytes=0-{PART - 1}",
        f"bytes={PART}-{2 * PART - 1}",
        f"bytes={2 * PART}-{2 * PART + 4}",
    }
    assert {one.if_match for one in requests} == {f'"{hashlib.md5(large).hexdigest()}"'}
    assert bucket.proxy.bytes_sent("GET", "large") == len(large)


def test_s3_large_object_that_is_no_image_costs_one_small_request(bucket: Bucket) -> None:
    bucket.put("p/a/film.mp4", body=b"\0\0\0\x20ftypisom" + noise(2 * PART))
    bucket.put("p/b/1", body=b"BM")
    [film, _] = s3.discover(bucket.uri("p"), policy()).images
    [(_, refused)] = read_ahead([film], readers=1)
    assert str(refused) == "not_an_image: a video"
    assert [one.range for one in bucket.proxy.requests("GET", "film")] == [f"bytes=0-{HEAD_BYTES - 1}"]


def test_s3_object_that_was_uploaded_in_parts_has_no_md5_and_is_read(bucket: Bucket) -> None:
    data = noise(PART + 7)
    bucket.put_in_parts("p/a/1", data, 5 << 20)
    item = only(s3.discover(bucket.uri("p"), policy()))
    assert item.version
    assert item.version.split(":")[0].endswith("-2")
    assert item.read() == data


def test_s3_items_are_read_from_many_threads_by_one_client(bucket: Bucket, account: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = client._make
    account.setattr(client, "_make", lambda: made.append(1) or make())
    bucket.put(*(f"p/{number % 3}/{number}" for number in range(60)))
    items = s3.discover(bucket.uri("p"), policy()).images
    with ThreadPoolExecutor(16) as pool:
        data = list(pool.map(lambda item: item.read(), items))
    assert data == [f"p/{item.path}".encode() for item in items]
    assert len(made) == 1


def test_case_13_s3_object_replaced_between_its_ranges_is_refused(bucket: Bucket) -> None:
    bucket.put("p/a/1", body=noise(2 * PART + 9, 1))
    item = only(s3.discover(bucket.uri("p"), policy()))
    new = noise(2 * PART + 9, 2)
    bucket.proxy.add(range=f"bytes={2 * PART}-", times=1, before=lambda: bucket.put("p/a/1", body=new))
    assert "changed while it was read (PreconditionFailed)" in unavailable(item.read)
    assert only(s3.discover(bucket.uri("p"), policy())).read() == new


def test_case_13_s3_object_replaced_after_the_listing_is_refused(bucket: Bucket) -> None:
    bucket.put("p/a/1", "p/a/2", body=b"old")
    changed, removed = s3.discover(bucket.uri("p"), policy()).images
    bucket.put("p/a/1", body=b"new")
    bucket.client.delete_object(Bucket=bucket.name, Key="p/a/2")
    assert "changed while it was read" in unavailable(changed.read)
    assert "there is no such object (NoSuchKey)" in unavailable(removed.read)


def test_case_13_s3_store_that_does_not_heed_if_match_is_noticed_by_the_etag(bucket: Bucket) -> None:
    bucket.put("p/a/1", body=b"old")
    item = only(s3.discover(bucket.uri("p"), policy()))
    bucket.proxy.add(path="/p/a/1", body=b"new", headers={"ETag": '"other"'})
    assert "changed while it was read" in unavailable(item.read)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("after", [0, 1, 300_000, 999_999])
def test_case_14_s3_connection_dropped_at_byte_n_goes_on_from_there(bucket: Bucket, after: int) -> None:
    data = noise(1_000_000)
    bucket.put("p/a/1", body=data)
    item = only(s3.discover(bucket.uri("p"), policy()))
    bucket.proxy.add(path="/p/a/1", times=1, drop_after=after)
    assert item.read() == data
    assert bucket.proxy.count("GET", "/p/a/1") == 2
    assert bucket.proxy.bytes_sent("GET", "/p/a/1") <= len(data) + (16 << 10)


@pytest.mark.usefixtures("no_pauses")
def test_case_14_s3_every_part_may_break_and_the_object_is_whole(bucket: Bucket) -> None:
    data = noise(2 * PART + 1000)
    bucket.put("p/a/1", body=data)
    item = only(s3.discover(bucket.uri("p"), policy()))
    bucket.proxy.add(path="/p/a/1", times=5, drop_after=3 << 20)
    assert item.read() == data
    assert bucket.proxy.bytes_sent("GET", "/p/a/1") <= len(data) + 5 * (16 << 10)


@pytest.mark.usefixtures("no_pauses")
def test_case_14_s3_connection_that_always_breaks_ends_in_an_error(bucket: Bucket) -> None:
    bucket.put("p/a/1", body=noise(100_000))
    item = only(s3.discover(bucket.uri("p"), policy()))
    bucket.proxy.add(path="/p/a/1", drop_after=0)
    assert "broke again and again" in unavailable(item.read)
    assert bucket.proxy.count("GET", "/p/a/1") == 1 + objects.MAX_RESUMES


@pytest.mark.usefixtures("no_pauses")
def test_case_14_s3_stalled_connection_goes_on_after_the_time_limit(
    bucket: Bucket, account: pytest.MonkeyPatch
) -> None:
    account.setattr(client, "READ_TIMEOUT_S", 0.5)
    data = noise(40_000)
    bucket.put("p/a/1", body=data)
    item = only(s3.discover(bucket.uri("p"), policy()))
    bucket.proxy.add(path="/p/a/1", times=1, chunk_delay_s=1)
    assert item.read() == data
    assert bucket.proxy.count("GET", "/p/a/1") == 2


def test_s3_slow_answers_are_waited_for(bucket: Bucket) -> None:
    data = noise(40_000)
    bucket.put("p/a/1", body=data)
    bucket.proxy.add(path="", delay_s=0.1, chunk_delay_s=0.005)
    assert only(s3.discover(bucket.uri("p"), policy())).read() == data
    assert bucket.proxy.count() == 2


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("size", [1000, PART + 1000])
def test_s3_bytes_damaged_on_the_way_are_read_again(bucket: Bucket, size: int) -> None:
    """The store's CRC32, which botocore checks, tells of the small one; ranges have none, so MD5 tells of the other."""
    data = noise(size)
    bucket.put("p/a/1", body=data)
    item = only(s3.discover(bucket.uri("p"), policy()))
    bucket.proxy.add(path="/p/a/1", times=1, change=flip)
    assert item.read() == data


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    ("size", "said"),
    [(1000, "don't match the store's checksum"), (PART + 1000, "is damaged: its bytes were read twice")],
)
def test_s3_bytes_that_stay_damaged_are_refused(bucket: Bucket, size: int, said: str) -> None:
    bucket.put("p/a/1", body=noise(size))
    item = only(s3.discover(bucket.uri("p"), policy()))
    bucket.proxy.add(path="/p/a/1", change=flip)
    assert said in refused(item.read)


@pytest.mark.parametrize(
    ("headers", "is_md5"),
    [
        ({}, True),
        ({"x-amz-server-side-encryption": "AES256"}, True),
        ({"x-amz-server-side-encryption": "aws:kms"}, False),
        ({"x-amz-server-side-encryption": "aws:kms:dsse"}, False),
        ({"x-amz-server-side-encryption-customer-algorithm": "AES256"}, False),
    ],
)
def test_s3_etag_is_taken_for_an_md5_only_where_it_is_one(
    proxy: FaultProxy, account: pytest.MonkeyPatch, headers: dict[str, str], is_md5: bool
) -> None:
    account.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    etag = f'"{"0" * 32}"'
    proxy.add(path="list-type=2", body=listed(("a/1", b"one", etag)))
    proxy.add(path="/a/1", body=b"one", headers={"ETag": etag, **headers})
    item = only(s3.discover("s3://bucket", policy()))
    if is_md5:
        assert "is damaged" in refused(item.read)
    else:
        assert item.read() == b"one"


@pytest.mark.parametrize(("bucket_name", "is_md5"), [("bucket", True), ("bucket--use1-az5--x-s3", False)])
def test_s3_etag_of_a_directory_bucket_is_not_an_md5(bucket_name: str, is_md5: bool) -> None:
    stored = objects.StoredObject(client.Address(bucket_name, "a/1"), f'"{"0" * 32}"', 3)
    assert objects.is_whole(objects.ObjectReader(None, stored), hashlib.md5(b"one").hexdigest()) is not is_md5


@pytest.mark.parametrize("sent", [2 * PART, PART])
def test_s3_store_that_gives_no_ranges_is_reported_for_large_objects(bucket: Bucket, sent: int) -> None:
    """It sends all, or its beginning, whatever was asked for."""
    data = noise(2 * PART)
    bucket.put("p/a/1", body=data)
    item = only(s3.discover(bucket.uri("p"), policy()))
    bucket.proxy.add(path="/p/a/1", body=data[:sent], headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})
    assert "sent other bytes than requested" in refused(item.read)


def test_s3_answer_of_another_length_than_the_listing_says_is_refused(bucket: Bucket) -> None:
    bucket.put("p/a/1", body=b"three")
    item = only(s3.discover(bucket.uri("p"), policy()))
    bucket.proxy.add(path="/p/a/1", body=b"th", headers={"ETag": f'"{hashlib.md5(b"three").hexdigest()}"'})
    assert "sent other bytes than requested" in refused(item.read)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("size", [0, 10, PART, 2 * PART + 1])
def test_fetch_object_gives_the_whole_object(bucket: Bucket, size: int) -> None:
    data = noise(size)
    bucket.put("k", body=data)
    assert s3.fetch_object(bucket.uri("k"), policy()) == data
    assert (bucket.proxy.count("HEAD"), bucket.proxy.count("GET")) == (1, max(1, -(-size // PART)))
    bucket.proxy.add(method="GET", times=2, drop_after=5)
    assert s3.fetch_object(bucket.uri("k"), policy()) == data


def test_fetch_object_shares_a_client_between_threads(bucket: Bucket, account: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = client._make
    account.setattr(client, "_make", lambda: made.append(1) or make())
    bucket.put(*(f"p/{number}" for number in range(30)))
    with ThreadPoolExecutor(8) as pool:
        data = list(pool.map(lambda number: s3.fetch_object(bucket.uri(f"p/{number}"), policy()), range(30)))
    assert data == [f"p/{number}".encode() for number in range(30)]
    assert len(made) == 1


def test_fetch_object_knows_that_the_etag_is_not_an_md5(proxy: FaultProxy, account: pytest.MonkeyPatch) -> None:
    account.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    proxy.add(body=b"one", headers={"ETag": f'"{"0" * 32}"', "x-amz-server-side-encryption": "aws:kms"})
    assert s3.fetch_object("s3://bucket/k", policy()) == b"one"
    assert proxy.count("GET") == 1


def test_object_of_another_version_is_refused(bucket: Bucket) -> None:
    bucket.put("k")
    old = replace(s3.describe_object(bucket.uri("k"), policy()), etag='"0"')
    assert "changed while it was read" in unavailable(objects.fetch, bucket.client, old)
    assert "no such object" in refused(s3.fetch_object, bucket.uri("nowhere"), policy())
