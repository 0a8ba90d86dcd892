"""The listing that every source returns: its images, and its excluded entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar

Entry = TypeVar("Entry")


class ImageReader(Protocol):
    """Reads the images of a source, called from several threads at once. All images of a listing share one or two."""

    def read(self, image: SourceImage) -> bytes:
        """All original bytes of the image, or raises SourceError."""

    def read_head(self, image: SourceImage) -> bytes | None:
        """The first bytes (`signatures.HEAD_BYTES`), for much less than `read`; None if only `read` can tell them."""


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image at the source. There may be millions, so each holds little, and shares what it can.

    Attributes:
        path: unique within the source, `/` between folders, printable (undecodable bytes are escaped).
        label: name of its class.
        split: `train`, `validation` or `test` if the source assigns it, else None.
        reader: of this source.
        place: tells the reader where the image is; small, or the same object as `path`.
        version: changes whenever the bytes may have changed, so that an image of a known version isn't read again;
            None if only the bytes show a change.
        group: the patient, product or video that it belongs to; images of one group stay in one split.
        size_bytes: of the file, 0 if it is small; bounds the memory of several that are read at once.
        about: what the source tells about it besides, a JSON object of strings; None: nothing.
    """

    path: str
    label: str
    split: str | None
    reader: ImageReader
    place: Any = None
    version: str | None = None
    group: str | None = None
    size_bytes: int = 0
    about: str | None = None

    def read(self) -> bytes:
        """See `ImageReader.read`."""
        return self.reader.read(self)

    def read_head(self) -> bytes | None:
        """See `ImageReader.read_head`."""
        return self.reader.read_head(self)


@dataclass(frozen=True, slots=True)
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


def consumed(entries: list[Entry]) -> Iterator[Entry]:
    """The entries, the last one first; each leaves the list, so that its memory can be used again."""
    while entries:
        yield entries.pop()
