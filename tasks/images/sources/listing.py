"""The listing that every source returns: its images, and its excluded entries."""

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
        split: `train`, `validation` or `test` if the source assigns it, else None.
        read: returns all original bytes, or raises SourceError; called from several threads at once.
        version: changes whenever the bytes may have changed, so that an image of a known version isn't read again;
            None if only the bytes show a change.
        group: the patient, product or video that it belongs to; images of one group stay in one split.
        size_bytes: of the file, 0 if it is small; bounds the memory of several that are read at once.
        read_head: returns the first bytes (`signatures.HEAD_BYTES`), for much less than `read` if the file is large;
            None if only `read` can tell them.
    """

    path: str
    label: str
    split: str | None
    read: Callable[[], bytes]
    version: str | None = None
    group: str | None = None
    size_bytes: int = 0
    read_head: Callable[[], bytes] | None = None


@dataclass(frozen=True)
class Excluded:
    """An entry of the source that is not an image of a class, with the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class SourceListing:
    """All entries of a source, in the order of the paths.

    Attributes:
        images: with label, split and version.
        excluded: entries that are not images of a class.
        about: the source's description of itself for the model card: `name`, `description`, `licence`, `citation`,
            `homepage`; without unknown ones.
    """

    images: tuple[SourceImage, ...]
    excluded: tuple[Excluded, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Iterable[SourceImage | Excluded], about: Mapping[str, str] | None = None) -> Self:
        """Sort entries, which may come in any order, into a listing."""
        ordered = sorted(entries, key=lambda entry: entry.path)
        return cls(
            tuple(entry for entry in ordered if isinstance(entry, SourceImage)),
            tuple(entry for entry in ordered if isinstance(entry, Excluded)),
            about or {},
        )
