"""Reads images that are objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.images.sources.layout import printable
from tasks.images.sources.listing import SourceImage
from tasks.images.sources.s3.client import SCHEME, Address
from tasks.images.sources.s3.objects import StoredObject, fetch, fetch_head


@dataclass(frozen=True)
class StoredImages:
    """The images that are objects whose addresses begin with `root`."""

    client: Any
    root: str

    def image(self, stored: StoredObject, name: str, label: str, split: str | None, group: str | None) -> SourceImage:
        """The image in an object.

        Args:
            stored: the object.
            name: the rest of its address, after the root.
            label: its class.
            split: if the source assigns one.
            group: if it belongs to one.
        """
        version = stored.version
        place = name if stored.etag == _etag_of(version) else (name, stored.etag)
        return SourceImage(printable(name), label, split, self, place, version, group, stored.size)

    def read(self, image: SourceImage) -> bytes:
        """See `objects.fetch`."""
        return fetch(self.client, self._stored(image))

    def read_head(self, image: SourceImage) -> bytes | None:
        """See `objects.fetch_head`."""
        return fetch_head(self.client, self._stored(image))

    def _stored(self, image: SourceImage) -> StoredObject:
        name, etag = image.place if isinstance(image.place, tuple) else (image.place, _etag_of(image.version))
        bucket, _, key = (self.root + name).removeprefix(SCHEME).partition("/")
        return StoredObject(Address(bucket, key), etag, image.size_bytes)


def _etag_of(version: str | None) -> str:
    """The ETag that a version stands for; most are in quotes."""
    return f'"{version.rpartition(":")[0]}"' if version else ""
