"""Reads objects of a bucket, complete and in one version. Reading resumes where the connection broke.

Every request carries the ETag (`If-Match`), so bytes of two versions never mix. A small object is one request; a larger
one is read in parts, several at once. Three things are checked: the length, always; the MD5, if the ETag is one; the
store's own checksum (CRC, SHA), by botocore, if the store returns it for the whole object.

The ETag is the MD5 of the bytes unless the object was uploaded in parts (`-N` at its end), was encrypted with keys of
KMS or of the customer, or is in a directory bucket: https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from botocore import exceptions as boto

from tasks.errors import RootstockError, SourceError
from tasks.images.reason_codes import DamagedAtSourceError, RefusalCode, SourceChangedError
from tasks.images.signatures import HEAD_BYTES
from tasks.images.sources.layout import printable
from tasks.images.sources.s3.client import Address
from tasks.images.sources.s3.errors import explained, status_of
from tasks.parallel import in_order

PART_BYTES = 8 << 20
PARTS_AT_ONCE = 4
MAX_RESUMES = 8
"""The object counts as unreadable after a part broke off this often."""
_CHUNK_BYTES = 16 << 10  # at most this much is read twice after a break
_LONGEST_PAUSE_S = 5.0
_BROKEN = (boto.HTTPClientError, boto.IncompleteReadError)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One version of an object.

    Attributes:
        etag: from the store, with its quotes; empty if the store has none.
    """

    address: Address
    etag: str
    size: int

    @property
    def version(self) -> str | None:
        """Changes whenever the bytes may have changed; None if the store has no ETag."""
        return f"{self.etag.strip(chr(34))}:{self.size}" if self.etag else None


@dataclass
class ObjectReader:
    """An object while it is read.

    Attributes:
        opaque: a response has shown that the ETag is not an MD5.
    """

    client: Any
    stored: StoredObject
    opaque: bool = False

    @property
    def shown(self) -> str:
        return printable(str(self.stored.address))


def list_stored(client: Any, prefix: Address) -> Iterator[StoredObject]:
    """All objects whose keys begin with the prefix's key, in pages of 1,000.

    Raises:
        SourceError: the listing fails.
    """
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=prefix.bucket, Prefix=prefix.key, PaginationConfig={"PageSize": 1000}
    )
    with explained(f"{printable(str(prefix))} can't be listed", client.meta.endpoint_url):
        for page in pages:
            for entry in page.get("Contents", ()):
                yield StoredObject(Address(prefix.bucket, entry["Key"]), entry.get("ETag", ""), entry["Size"])


def describe(client: Any, address: Address) -> StoredObject:
    """The object's present version, by one request.

    Raises:
        SourceError: it doesn't exist, or may not be read.
    """
    with explained(f"{printable(str(address))} can't be read", client.meta.endpoint_url):
        try:
            answer = client.head_object(Bucket=address.bucket, Key=address.key)
        except boto.ClientError as error:
            if status_of(error) in (400, 403):  # the response to HEAD has no text, so it has no reason
                client.get_object(Bucket=address.bucket, Key=address.key, Range="bytes=0-0")["Body"].close()
            raise
        return StoredObject(address, answer.get("ETag", ""), answer["ContentLength"])


def fetch(client: Any, stored: StoredObject) -> bytes:
    """The bytes of this version.

    Raises:
        SourceChangedError: it changed or was deleted.
        DamagedAtSourceError: its bytes don't match the store's checksum.
        SourceError: it may not be read.
        TransientError: the store is busy or doesn't answer.
    """
    reading = ObjectReader(client, stored)
    for _ in range(2):  # damage in transit doesn't happen twice
        data = _span(reading, 0, stored.size) if _is_one_request(stored) else b"".join(parts(reading, 0))
        if is_whole(reading, hashlib.md5(data, usedforsecurity=False).hexdigest()):
            return data
    raise damaged(reading)


def fetch_head(client: Any, stored: StoredObject) -> bytes | None:
    """The first bytes, by a request of their own; None if `fetch` needs only one request anyway."""
    return None if _is_one_request(stored) else _span(ObjectReader(client, stored), 0, HEAD_BYTES)


def _is_one_request(stored: StoredObject) -> bool:
    """Whether the object is small or has no ETag: without one, several responses may be of different versions."""
    return stored.size <= PART_BYTES or not stored.etag


def parts(reading: ObjectReader, start: int) -> Iterator[bytes]:
    """Yield the bytes from `start` on, part by part in order, while the next parts are downloaded."""
    size = reading.stored.size
    step = size + 1 if _is_one_request(reading.stored) else PART_BYTES
    pool = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="s3")
    try:
        begun = (pool.submit(_span, reading, at, min(at + step, size)) for at in range(start, size, step))
        for part in in_order(begun, PARTS_AT_ONCE):
            yield part.result()
    finally:
        pool.shutdown(cancel_futures=True)


def is_whole(reading: ObjectReader, md5_hex: str) -> bool:
    """Whether bytes with this MD5 match the object's ETag; True if the ETag is not an MD5."""
    stored = reading.stored
    expected = re.fullmatch(r'"?([0-9a-f]{32})"?', stored.etag)
    if expected is None or reading.opaque or stored.address.bucket.endswith("--x-s3"):
        return True
    return expected[1] == md5_hex


def damaged(reading: ObjectReader) -> DamagedAtSourceError:
    return DamagedAtSourceError(
        f"{reading.shown} is damaged: its bytes were read twice and didn't match the store's MD5 "
        f"({reading.stored.etag}). Upload the object again."
    )


def _span(reading: ObjectReader, start: int, stop: int) -> bytes:
    """The bytes from `start` to before `stop`; after a broken connection, reading continues where it broke."""
    data = bytearray()
    breaks = 0
    with explained(f"{reading.shown} can't be read", reading.client.meta.endpoint_url, was_listed=True):
        while len(data) < stop - start or not stop:  # an empty object is requested too: it may have changed
            answer = _ask(reading, start + len(data), stop)
            try:
                for chunk in answer["Body"].iter_chunks(_CHUNK_BYTES):  # botocore raises if the length is wrong
                    data += chunk
                break
            except (*_BROKEN, boto.FlexibleChecksumError) as error:
                breaks += 1
                if breaks > MAX_RESUMES:
                    raise
                if isinstance(error, boto.FlexibleChecksumError) or not reading.stored.etag:
                    data.clear()
            finally:
                answer["Body"].close()
            time.sleep(random.uniform(0.5, 1) * min(0.2 * 2**breaks, _LONGEST_PAUSE_S))  # noqa: S311 - no secret
    return bytes(data)


def _ask(reading: ObjectReader, start: int, stop: int) -> Any:
    """A response with the bytes from `start` to before `stop`; its version and range are checked."""
    stored = reading.stored
    whole = (start, stop) == (0, stored.size)
    wanted = {"IfMatch": stored.etag} if stored.etag else {}
    if not whole:
        wanted["Range"] = f"bytes={start}-{stop - 1}"
    with explained(f"{reading.shown} can't be read", reading.client.meta.endpoint_url, was_listed=True):
        answer = reading.client.get_object(Bucket=stored.address.bucket, Key=stored.address.key, **wanted)
        if wrong := _misfit(reading, answer, start, stop):
            answer["Body"].close()
            raise wrong
    encryption = answer.get("ServerSideEncryption")
    reading.opaque = reading.opaque or encryption not in (None, "AES256") or "SSECustomerAlgorithm" in answer
    return answer


def _misfit(reading: ObjectReader, answer: Any, start: int, stop: int) -> RootstockError | None:
    """The error of a wrong response, or None: some stores don't obey every header of the request."""
    stored = reading.stored
    whole, fits = (start, stop) == (0, stored.size), answer["ContentLength"] == stop - start
    if stored.etag != answer.get("ETag") if stored.etag else whole and not fits:
        changed = f"{reading.shown} can't be read: it changed while it was read. The next run reads it again."
        return SourceChangedError(changed, RefusalCode.CHANGED_WHILE_READ)
    if not fits or (not whole and answer.get("ContentRange") != f"bytes {start}-{stop - 1}/{stored.size}"):
        return SourceError(
            f"{reading.shown} can't be read: the store sent other bytes than requested. Large objects and broken "
            "connections need range requests: copy the images here (`aws s3 sync`) and give the folder."
        )
    return None
