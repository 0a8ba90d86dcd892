"""Where pictures come from. Each kind of source is a module with `check(uri)` and `discover(uri)`."""

from __future__ import annotations

import re

from tasks.errors import SourceError
from tasks.pictures.sources import digits, folder
from tasks.pictures.sources.listing import Excluded, Item, Listing

__all__ = ["Excluded", "Item", "Listing", "check_source", "discover"]

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+]+):(//)?")


def check_source(uri: str) -> None:
    """Find out, in well under a second, whether the source is there and looks usable.

    Raises:
        SourceError: it is missing, empty, or of a kind that isn't known; says what would be right.
    """
    if uri == digits.URI:
        return
    _refuse_unknown(uri)
    folder.check(uri)


def discover(uri: str) -> Listing:
    """List every picture of the source with its label, and its split where the source gives one.

    Raises:
        SourceError: as `check_source`, or the source holds fewer than two classes.
    """
    check_source(uri)
    listing = digits.discover() if uri == digits.URI else folder.discover(uri)
    classes = sorted({item.label for item in listing.items})
    if len(classes) < 2:
        found = f"only the class {classes[0]!r}" if classes else "no picture in a class folder"
        raise SourceError(
            f"A classifier needs at least two classes; {uri} holds {found}. "
            "Put the pictures of each class into a folder of its own: SOURCE/<class>/<picture>."
        )
    return listing


def _refuse_unknown(uri: str) -> None:
    scheme = _SCHEME.match(uri)
    if scheme:
        raise SourceError(
            f"Sources of the kind {scheme[1]!r} are not known. Give a folder of class folders, or `digits`. "
            f"Received: {uri!r}"
        )
