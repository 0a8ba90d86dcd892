"""What every source answers: the pictures that it holds, and what in it is no picture of a class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One picture at the source.

    Attributes:
        path: unique within the source, `/` between folders, printable (undecodable bytes are escaped).
        label: name of its class.
        split: `train`, `validation` or `test` where the source gives it, else None.
        read: gives the original bytes.
    """

    path: str
    label: str
    split: str | None
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Excluded:
    """Something at the source that is not a picture of a class, with the reason why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """All that a source holds, in the order of the paths."""

    items: tuple[Item, ...]
    excluded: tuple[Excluded, ...] = ()
