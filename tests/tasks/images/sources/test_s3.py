"""S3 as a source, on a real server: what is listed, and how many requests it takes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import quote

import pytest

from tasks.images.sources import folder, s3
from tasks.images.sources.s3.client import parse
from tasks.images.sources.s3.objects import list_stored
from tests.tasks.images.sources.policies import policy
from tests.tasks.images.sources.storing import Bucket, labels, listed, only, reasons, refused


def test_s3_takes_classes_from_the_folders_below_the_prefix_and_reads_the_bytes(bucket: Bucket) -> None:
    bucket.put("pets/ant/1.jpg", "pets/ant/deep/er/2.JPG", "pets/bee/3", "pets2/cat/4", "pet", "other/dog/5")
    for uri in (bucket.uri("pets"), bucket.uri("pets/")):
        s3.check(uri, policy())
        listing = s3.discover(uri, policy())
        assert labels(listing) == {
            "ant/1.jpg": ("ant", None),
            "ant/deep/er/2.JPG": ("ant", None),
            "bee/3": ("bee", None),
        }
        assert [item.read() for item in listing.images] == [b"pets/ant/1.jpg", b"pets/ant/deep/er/2.JPG", b"pets/bee/3"]
        assert listing.excluded == ()


def test_s3_takes_a_whole_bucket(bucket: Bucket) -> None:
    bucket.put("ant/1", "bee/2", "readme")
    for uri in (bucket.uri(), bucket.uri().rstrip("/")):
        s3.check(uri, policy())
        assert labels(s3.discover(uri, policy())) == {"ant/1": ("ant", None), "bee/2": ("bee", None)}


def test_s3_without_labels_lists_objects_that_lie_anywhere_below_the_prefix(bucket: Bucket) -> None:
    bucket.put("p/1.jpg", "p/train/2.jpg", "other/3.jpg")
    unlabelled = policy(labelled=False)
    s3.check(bucket.uri("p"), unlabelled)
    assert [item.path for item in s3.discover(bucket.uri("p"), unlabelled).images] == ["1.jpg", "train/2.jpg"]
    assert "is empty" in refused(s3.check, bucket.uri("nothing"), unlabelled)


def test_s3_keeps_given_splits_as_a_folder_does(bucket: Bucket) -> None:
    bucket.put("p/Train/a/1", "p/Train/b/2", "p/val/a/3", "p/extra/a/4", "p/Train/5")
    listing = s3.discover(bucket.uri("p"), policy())
    assert labels(listing) == {"Train/a/1": ("a", "train"), "Train/b/2": ("b", "train"), "val/a/3": ("a", "test")}
    assert reasons(listing) == {"extra/a/4": "outside_split_folders", "Train/5": "outside_class_folders"}


def test_s3_lists_the_same_images_as_the_folder_that_was_uploaded(bucket: Bucket, tmp_path: Path) -> None:
    names = ["train/ä b/1.jpg", "train/c/x/2", "test/c/3", "test/c/.DS_Store", "train/c/Thumbs.db", "loose", "z/c/4"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(f"up/{name}".encode())
    bucket.put(*(f"up/{name}" for name in names))
    local, remote = folder.discover(str(tmp_path), policy()), s3.discover(bucket.uri("up"), policy())
    assert labels(remote) == labels(local)
    assert reasons(remote) == reasons(local)
    assert [item.read() for item in remote.images] == [item.read() for item in local.images]


def test_s3_excludes_and_counts_entries_that_are_not_images_of_a_class(bucket: Bucket) -> None:
    bucket.put("p/a/1", "p/b/2", "p/readme.txt", "p/a/._1", "p/.git/config", "p/__MACOSX/a/1")
    bucket.put("p/", "p/a/", "p/c/", "p/d_$folder$", "p/b/nothing", body=b"")
    listing = s3.discover(bucket.uri("p"), policy())
    assert set(labels(listing)) == {"a/1", "b/2", "b/nothing"}
    assert [item.read() for item in listing.images] == [b"p/a/1", b"p/b/2", b""]
    assert reasons(listing) == {
        "readme.txt": "outside_class_folders",
        "a/._1": "system_file",
        ".git/config": "system_file",
        "__MACOSX/a/1": "system_file",
        "a/": "folder_marker",
        "c/": "folder_marker",
        "d_$folder$": "folder_marker",
    }


def test_s3_reads_keys_with_every_kind_of_character(bucket: Bucket) -> None:
    names = ["ü é/1", "a/q?x=1&y#z%20+", "a/~!*'();:@=$,[]", "a/tab\tx", "a/line\nx", "a/\x01", "b/%2F%2e%2e", "b/日本"]
    bucket.put(*(f"p/{name}" for name in names))
    listing = s3.discover(bucket.uri("p"), policy())
    assert {item.read().decode() for item in listing.images} == {f"p/{name}" for name in names}
    assert all(item.path.isprintable() for item in listing.images)
    assert {"a/tab\\tx", "a/line\\nx", "ü é/1"} <= set(labels(listing))


def test_s3_keys_that_look_like_paths_stay_keys(bucket: Bucket) -> None:
    """SeaweedFS refuses or changes such keys, Amazon does not; so the proxy answers here."""
    keys = ["p/a/../b/1", "p/a//2", "p/a/./3", "p/a\\b/4", "p/../5", "p//6", "p/a/.."]
    bucket.proxy.add(path="list-type=2", body=listed(*((key, key.encode(), "") for key in keys)))
    for key in keys:
        bucket.proxy.add(path=f"/{bucket.name}/{quote(key)}", body=key.encode())
    listing = s3.discover(bucket.uri("p"), policy())
    assert labels(listing) == {
        "a/../b/1": ("a", None),
        "a//2": ("a", None),
        "a/./3": ("a", None),
        "a\\\\b/4": ("a\\\\b", None),
        "../5": ("..", None),
        "a/..": ("a", None),
    }
    assert reasons(listing) == {"/6": "outside_class_folders"}
    assert {item.read().decode() for item in listing.images} == set(keys) - {"p//6"}


@pytest.mark.slow
def test_s3_listing_goes_through_all_pages(bucket: Bucket) -> None:
    keys = [f"many/{'ab'[number % 2]}/{number:05d}" for number in range(2300)]
    bucket.put(*keys, body=b"x")
    s3.check(bucket.uri("many"), policy())
    assert bucket.proxy.count() == 1
    listing = s3.discover(bucket.uri("many"), policy())
    assert sorted(item.path for item in listing.images) == sorted(key.removeprefix("many/") for key in keys)
    assert bucket.proxy.count() == bucket.proxy.count("GET", "list-type=2") == 4


def test_s3_bucket_that_did_not_change_costs_the_listing_only(bucket: Bucket) -> None:
    bucket.put("p/a/1", "p/b/2")
    first = s3.discover(bucket.uri("p"), policy())
    again = s3.discover(bucket.uri("p"), policy())
    assert [item.version for item in first.images] == [item.version for item in again.images]
    assert None not in {item.version for item in first.images}
    assert bucket.proxy.count() == bucket.proxy.count("GET", "list-type=2") == 2


def test_s3_store_without_etags_has_no_versions_but_is_read(bucket: Bucket) -> None:
    bucket.proxy.add(path="list-type=2", body=listed(("p/a/1", b"one", "")))
    bucket.proxy.add(path="/p/a/1", body=b"one")
    item = only(s3.discover(bucket.uri("p"), policy()))
    assert (item.version, item.read()) == (None, b"one")


@pytest.mark.parametrize("uri", ["s3://", "s3:///p", "s3://b/p", "s3://a b/p", "s3://büro/p"])
def test_s3_address_without_a_bucket_is_refused(uri: str) -> None:
    assert "s3://bucket/prefix; received" in refused(s3.check, uri, policy())


def test_s3_prefix_without_class_folders_is_explained(bucket: Bucket) -> None:
    bucket.put("loose/1.jpg", "loose/2.jpg", "one.bin", "a/1", "junk/.git/1", "Pets/a/1")
    bucket.put("marked/", body=b"")
    for act in (s3.check, s3.discover):
        assert "is empty. Check its spelling; capital letters matter" in refused(act, bucket.uri("pets"), policy())
        assert "is empty" in refused(act, bucket.uri("marked"), policy())
        assert "holds 2 objects but no class folders" in refused(act, bucket.uri("loose"), policy())
        assert "is one object, not a folder of images" in refused(act, bucket.uri("one.bin"), policy())
    assert "is empty" in refused(s3.check, bucket.uri("junk"), policy())
    assert "holds 1 objects but no class folders" in refused(s3.discover, bucket.uri("junk"), policy())
    assert {item.label for item in s3.discover(bucket.uri("Pets"), policy()).images} == {"a"}


def test_list_stored_gives_versions_for_many_keys_at_once(bucket: Bucket) -> None:
    bucket.put("p/a", "p/b", "q")
    found = {stored.address.key: stored for stored in list_stored(bucket.client, parse(bucket.uri("p/")))}
    assert set(found) == {"p/a", "p/b"}
    assert found["p/a"] == s3.describe_object(bucket.uri("p/a"), policy())
    assert found["p/a"].version == f"{hashlib.md5(b'p/a').hexdigest()}:3"


def test_s3_objects_too_large_for_images_are_excluded(bucket: Bucket) -> None:
    bucket.put("p/a/1", "p/b/22")
    listing = s3.discover(bucket.uri("p"), policy(max_image_bytes=5))
    assert [item.path for item in listing.images] == ["a/1"]
    assert reasons(listing) == {"b/22": "too_large"}
