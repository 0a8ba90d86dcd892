"""Reads images that are files below one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.images.reason_codes import RefusalCode, SourceChangedError
from tasks.images.signatures import HEAD_BYTES
from tasks.images.sources.layout import printable
from tasks.images.sources.listing import SourceImage


@dataclass(frozen=True)
class LocalFiles:
    """The files below `root`; the place of an image is its path from there. No file above `max_bytes` is read."""

    root: Path
    max_bytes: int

    def read(self, image: SourceImage) -> bytes:
        """The bytes of the image.

        Raises:
            SourceChangedError: the file has grown above the limit since it was listed.
        """
        path = self._path(image)
        with path.open("rb") as file:
            data = file.read(self.max_bytes + 1)
        if len(data) > self.max_bytes:
            grew = f"{printable(str(path))} grew above {self.max_bytes:,} bytes while it was read."
            raise SourceChangedError(grew, RefusalCode.CHANGED_WHILE_READ)
        return data

    def read_head(self, image: SourceImage) -> bytes:
        """The first bytes of the image."""
        with self._path(image).open("rb") as file:
            return file.read(HEAD_BYTES)

    def _path(self, image: SourceImage) -> Path:
        return self.root / str(image.place)
