"""Where images come from. Each kind of source is a module with `check(uri, policy)` and `discover(uri, policy)`."""

from __future__ import annotations

import importlib
import re
from typing import Protocol, cast

from tasks.errors import SourceError
from tasks.images.sources.layout import BUILT_IN, guess
from tasks.images.sources.listing import Excluded, SourceImage, SourceListing
from tasks.images.sources.policy import SourcePolicy

__all__ = ["Excluded", "SourceImage", "SourceListing", "SourcePolicy", "check_source", "discover"]

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".zip")
TABLES = (".csv", ".parquet")
KINDS = (
    "a folder of class folders, an archive (.tar, .tar.gz, .tar.zst, .zip), a table (.csv, .parquet), "
    "s3://bucket/prefix, tfds:name, `digits` or `digits:all`"
)
_SCHEMES = ("s3", "tfds")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+]+):(//)?")


class _Source(Protocol):
    def check(self, uri: str, policy: SourcePolicy, /) -> None: ...

    def discover(self, uri: str, policy: SourcePolicy, /) -> SourceListing: ...


def check_source(uri: str, policy: SourcePolicy) -> None:
    """Check, in a second or so, whether the source is there and usable.

    Raises:
        SourceError: it is missing, empty, forbidden by the policy, or of an unknown kind.
    """
    _module(uri).check(uri, policy)


def discover(uri: str, policy: SourcePolicy) -> SourceListing:
    """List every image of the source with its label, and with its split if the source assigns one.

    Raises:
        SourceError: see `check_source`; or images need labels, and the source holds fewer than two classes.
    """
    source = _module(uri)
    source.check(uri, policy)
    listing = source.discover(uri, policy)
    classes = sorted({item.label for item in listing.images})
    if policy.labelled and len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no image in a class folder"
        raise SourceError(
            f"A classifier needs at least two classes; {uri} holds {found}. "
            "Put the images of each class into a folder of its own: SOURCE/<class>/<image>."
        )
    return listing


def _module(uri: str) -> _Source:
    """Import the module for a kind of source, and no other one (boto3 takes half a second)."""
    module = importlib.import_module(f"tasks.images.sources.{_kind(uri)}")
    return cast("_Source", module)


def _kind(uri: str) -> str:
    if uri.partition(":")[0] == BUILT_IN:
        return "digits"
    scheme = _SCHEME.match(uri)
    if scheme and scheme[1] not in _SCHEMES:
        meant = guess(scheme[1], _SCHEMES, 0.5)
        raise SourceError(f"Sources of the kind {scheme[1]!r} are not known.{meant} Give {KINDS}.")
    if scheme and scheme[1] == "tfds":
        return "tfds"
    name = uri.lower().rstrip("/")
    if name.endswith(ARCHIVES):
        return "archive"
    if name.endswith(TABLES):
        return "table"
    return "s3" if scheme else "folder"
