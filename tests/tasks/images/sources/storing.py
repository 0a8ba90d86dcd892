"""A test's bucket, and short helpers for tests of S3."""

from __future__ import annotations

import hashlib
import html
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest

from tasks.errors import RootstockError, SourceError, TransientError
from tasks.images.sources import SourceImage, SourceListing
from tests.servers.fault_proxy import FaultProxy
from tests.servers.seaweed import ACCESS_KEY, SECRET_KEY

TOKEN = "canary-session-token-81aa"


class Bucket:
    """A test's own bucket, filled past the proxy."""

    def __init__(self, name: str, client: Any, proxy: FaultProxy) -> None:
        self.name = name
        self.client = client
        self.proxy = proxy

    def uri(self, key: str = "") -> str:
        return f"s3://{self.name}/{key}"

    def put(self, *keys: str, body: bytes | None = None) -> Bucket:
        """Objects whose bytes are their key, or `body`; several at once."""

        def put_one(key: str) -> None:
            self.client.put_object(Bucket=self.name, Key=key, Body=key.encode() if body is None else body)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put_one, keys))
        return self

    def put_in_parts(self, key: str, body: bytes, part_bytes: int) -> Bucket:
        name = {"Bucket": self.name, "Key": key}
        upload = self.client.create_multipart_upload(**name)["UploadId"]
        parts = []
        for number, begin in enumerate(range(0, len(body), part_bytes), 1):
            place = {**name, "UploadId": upload, "PartNumber": number}
            etag = self.client.upload_part(**place, Body=body[begin : begin + part_bytes])["ETag"]
            parts.append({"PartNumber": number, "ETag": etag})
        self.client.complete_multipart_upload(**name, UploadId=upload, MultipartUpload={"Parts": parts})
        return self


def noise(size: int, seed: int = 0) -> bytes:
    return hashlib.shake_128(bytes([seed])).digest(size)


def refused(act: Callable[..., object], *arguments: object) -> str:
    """The message of the SourceError."""
    return message_of(SourceError, act, *arguments)


def unavailable(act: Callable[..., object], *arguments: object) -> str:
    """The message of the TransientError."""
    return message_of(TransientError, act, *arguments)


def message_of(kind: type[RootstockError], act: Callable[..., object], *arguments: object) -> str:
    """The message of an error; no secret may be in it, nor in the traceback that a log would show."""
    with pytest.raises(kind) as caught:
        act(*arguments)
    shown = "".join(traceback.format_exception(caught.value))
    for secret in (SECRET_KEY, ACCESS_KEY, TOKEN, "Authorization", "Signature="):
        assert secret not in shown
    return str(caught.value)


def labels(listing: SourceListing) -> dict[str, tuple[str, str | None]]:
    return {item.path: (item.label, item.split) for item in listing.images}


def reasons(listing: SourceListing) -> dict[str, str]:
    return {entry.path: entry.reason for entry in listing.excluded}


def only(listing: SourceListing) -> SourceImage:
    (item,) = listing.images
    return item


def listed(*entries: tuple[str, bytes, str]) -> bytes:
    """The answer of a store to a request to list, in one page."""
    contents = "".join(
        f"<Contents><Key>{html.escape(quote(key))}</Key><ETag>{html.escape(etag)}</ETag><Size>{len(data)}</Size></Contents>"
        for key, data, etag in entries
    )
    head = "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
    return f"<ListBucketResult>{head}{contents}</ListBucketResult>".encode()


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])
