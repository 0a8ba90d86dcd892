"""A prefix of a bucket with the layout of a folder: `s3://bucket/prefix/<class>/**/<image>`, with or without splits.

An unchanged bucket costs only the listing: an image's version is its ETag and size, so bytes of a known version aren't
read again. Keys are not paths: `..`, `//` and backslashes in them have no meaning. An empty object that only marks a
folder is excluded, like everything else that is not an image of a class. Endpoint, region and credentials come from the
environment (`client`), never from the address.

`describe_object`, `fetch_object` and `download_object` are for other sources with parts in S3.
"""

from __future__ import annotations

import functools
import uuid
from pathlib import Path
from typing import Any

from tasks.errors import SourceError
from tasks.images.sources.layout import LAYOUT, class_and_split, is_junk, kept_splits, printable, why_excluded
from tasks.images.sources.listing import Excluded, SourceImage, SourceListing, consumed
from tasks.images.sources.policy import ListingStopped, SourcePolicy
from tasks.images.sources.s3.client import Address, client_for, parse
from tasks.images.sources.s3.download import download
from tasks.images.sources.s3.errors import explained
from tasks.images.sources.s3.images import StoredImages
from tasks.images.sources.s3.objects import StoredObject, describe, fetch, list_stored

_FOLDER_MARKERS = ("/", "_$folder$")  # of consoles and of Hadoop


def check(uri: str, policy: SourcePolicy) -> None:
    """Check with one request that the prefix holds class folders.

    Raises:
        SourceError: the bucket, the prefix or the credentials are missing or wrong, or the endpoint doesn't answer.
    """
    address, client = parse(uri), client_for(policy)
    prefix = _as_folder(address)
    with explained(f"{printable(uri)} can't be listed", client.meta.endpoint_url):
        page = client.list_objects_v2(Bucket=prefix.bucket, Prefix=prefix.key, Delimiter="/", MaxKeys=1000)
    folders = [entry["Prefix"][len(prefix.key) : -1] for entry in page.get("CommonPrefixes", ())]
    files = [entry["Key"] for entry in page.get("Contents", ()) if not _is_marker(entry["Key"], entry["Size"])]
    has_images = any(not is_junk(name) for name in folders) or (files and not policy.labelled)
    if not has_images and not page.get("IsTruncated"):
        raise _without_classes(client, address, len(files))


def discover(uri: str, policy: SourcePolicy) -> SourceListing:
    """List every object below the prefix, as an image of a class or as excluded with the reason.

    Raises:
        SourceError: see `check`.
    """
    address, client = parse(uri), client_for(policy)
    prefix = _as_folder(address)
    found: list[StoredObject] = []
    folders: set[str] = set()
    for stored in policy.watched(list_stored(client, prefix)):
        if stored.address != prefix:  # the marker of the prefix itself
            found.append(stored)
            folder, slash, _ = stored.address.key[len(prefix.key) :].partition("/")
            if slash:
                folders.add(folder)
    if all(is_junk(folder) for folder in folders) and (policy.labelled or not found):
        raise _without_classes(client, address, len(found))
    splits, images = kept_splits(folders), StoredImages(client, str(prefix))
    return SourceListing.of(_entry(stored, images, splits, policy) for stored in consumed(found))


def _entry(
    stored: StoredObject, images: StoredImages, splits: dict[str, str], policy: SourcePolicy
) -> SourceImage | Excluded:
    name = str(stored.address).removeprefix(images.root)
    parts = name.split("/")
    reason = _reason(parts, stored, splits, policy)
    if reason is not None:
        return Excluded(printable(name), reason)
    label, split = class_and_split(parts, splits)
    return images.image(stored, name, label, split, None)


def describe_object(uri: str, policy: SourcePolicy) -> StoredObject:
    """The present version of one object, by one request.

    Raises:
        SourceError: it doesn't exist, or may not be read.
    """
    return describe(client_for(policy), parse(uri))


def fetch_object(uri: str, policy: SourcePolicy) -> bytes:
    """All bytes of a table, in one version. Safe in many threads.

    Raises:
        SourceError: it doesn't exist, is too large, may not be read, changes meanwhile, or is damaged.
    """
    client = client_for(policy)
    stored = describe(client, parse(uri))
    policy.check_memory(f"The table {uri!r}", stored.size)
    return fetch(client, stored)


def download_object(uri: str, policy: SourcePolicy) -> tuple[Path, str]:
    """Download the present version of an object into the cache. Returns the file and its SHA-256.

    If the file is in the cache already, this costs one request. A download that broke off is resumed where it ended,
    also by a later run, unless the object changed meanwhile.

    Raises:
        SourceError: see `fetch_object`.
        ListingStopped: it isn't in the cache, and the policy forbids to download it.
        OSError: the disk is full or read-only.
    """
    client = client_for(policy)
    stored = describe(client, parse(uri))
    if not stored.etag:
        policy.check_memory(f"The archive {uri!r}, whose store gives no ETag,", stored.size)
    content = stored.version or str(uuid.uuid4())  # without a version, the object may have changed
    make = functools.partial(download, client, stored) if policy.may_download else _stop
    return policy.cache.keep("downloads", uri, content, make)


def _stop(_path: Path) -> None:
    raise ListingStopped


def _as_folder(address: Address) -> Address:
    return Address(address.bucket, address.key + "/" if address.key and not address.key.endswith("/") else address.key)


def _is_marker(key: str, size: int) -> bool:
    return size == 0 and key.endswith(_FOLDER_MARKERS)


def _reason(parts: list[str], stored: StoredObject, splits: dict[str, str], policy: SourcePolicy) -> str | None:
    if _is_marker(stored.address.key, stored.size):
        return "folder_marker"
    is_large = stored.size > policy.max_image_bytes
    return why_excluded(parts, splits, policy.labelled) or ("too_large" if is_large else None)


def _without_classes(client: Any, address: Address, files: int) -> SourceError:
    shown = printable(str(address))
    if files:
        return SourceError(
            f"The prefix {shown} holds {files} objects but no class folders, so the images have no labels. {LAYOUT}"
        )
    first = next(list_stored(client, address), None) if address.key else None  # keys are listed in order
    if first is not None and first.address == address and not _is_marker(address.key, first.size):
        return SourceError(
            f"{shown} is one object, not a folder of images. Give its prefix, or an archive (.zip, .tar, .tar.gz, "
            f".tar.zst) or a table (.csv, .parquet). {LAYOUT}"
        )
    return SourceError(f"The prefix {shown} is empty. Check its spelling; capital letters matter. {LAYOUT}")
