"""What every source gives: the images that it holds, and what in it is not an image of a class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image at the source.

    Attributes:
        path: unique within the source, `/` between folders, printable (undecodable bytes are escaped).
        label: name of its class.
        split: `train`, `validation` or `test` where the source gives it, else None.
        read: gives the original bytes, whole, or raises SourceError; called from several threads at once.
        version: changes whenever the bytes may have changed, so that an item of a known version isn't read again;
            None where only the bytes show it.
        group: the patient, product or video that it belongs to; images of one group stay in one split.
    """

    path: str
    label: str
    split: str | None
    read: Callable[[], bytes]
    version: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Excluded:
    """Something at the source that is not an image of a class, with the reason why."""

    path: str
    reason: str


@dataclass(frozen=True)
class SourceListing:
    """All that a source holds, in the order of the paths.

    Attributes:
        images: with label, split and version.
        excluded: what is not an image of a class.
        about: what the source says of itself, for the model card: `name`, `description`, `licence`, `citation`,
            `homepage`; only what is known.
    """

    images: tuple[SourceImage, ...]
    excluded: tuple[Excluded, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Iterable[SourceImage | Excluded], about: Mapping[str, str] | None = None) -> Self:
        """The listing of entries in any order."""
        ordered = sorted(entries, key=lambda entry: entry.path)
        return cls(
            tuple(entry for entry in ordered if isinstance(entry, SourceImage)),
            tuple(entry for entry in ordered if isinstance(entry, Excluded)),
            about or {},
        )
