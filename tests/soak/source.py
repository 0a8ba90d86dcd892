"""The images at the source, which change all the time; this module knows what must be there."""

from __future__ import annotations

import io
from random import Random
from typing import Any

from tests.conftest import COLOURS, draw_image
from tests.soak.project import SOURCE_BUCKET

LEAST, MOST = 12, 30
"""Images of a class."""
JUNK = {"ant/text.png": b"this is no image\n", "bee/.DS_Store": b"Bud1"}
"""Entries that are refused or excluded, whatever happens."""


class Source:
    """Images under `all/<class>/` of a bucket, by a client that no fault reaches.

    Attributes:
        labels: path -> label of every image.
    """

    def __init__(self, client: Any, random: Random) -> None:
        self._client, self._random = client, random
        self._number = 0
        self.labels: dict[str, str] = {}

    def fill(self, a_class: int) -> None:
        for path, data in JUNK.items():
            self._put(path, data)
        for label in COLOURS:
            for _ in range(a_class):
                self.add(label)

    def change(self, count: int) -> str:
        """Make some changes. Returns what was done, in words."""
        return ", ".join(
            getattr(self, self._random.choice(("add", "replace", "delete", "move")))() for _ in range(count)
        )

    def add(self, label: str = "") -> str:
        label = label or self._random.choice(sorted(COLOURS))
        if self._count(label) >= MOST:
            return self.delete(label)
        path = f"{label}/{self._next():05d}.png"
        self._put(path, self._draw(label))
        self.labels[path] = label
        return f"added {path}"

    def replace(self) -> str:
        """Other bytes under the same name."""
        path = self._any()
        self.rewrite(path)
        return f"changed {path}"

    def rewrite(self, path: str) -> None:
        self._next()
        self._put(path, self._draw(self.labels[path]))

    def delete(self, label: str = "") -> str:
        path = self._any(label)
        if self._count(self.labels[path]) <= LEAST:
            return self.add(self.labels[path])
        self._client.delete_object(Bucket=SOURCE_BUCKET, Key=f"all/{path}")
        del self.labels[path]
        return f"deleted {path}"

    def move(self) -> str:
        """The same bytes in another class."""
        path = self._any()
        before = self.labels[path]
        if self._count(before) <= LEAST:
            return self.add(before)
        label = self._random.choice([one for one in sorted(COLOURS) if one != before])
        moved = f"{label}/{path.rpartition('/')[2]}"
        data = self._client.get_object(Bucket=SOURCE_BUCKET, Key=f"all/{path}")["Body"].read()
        self._put(moved, data)
        self._client.delete_object(Bucket=SOURCE_BUCKET, Key=f"all/{path}")
        del self.labels[path]
        self.labels[moved] = label
        return f"moved {path} to {label}"

    def any_path(self) -> str:
        return self._any()

    def _any(self, label: str = "") -> str:
        return self._random.choice(sorted(path for path, one in self.labels.items() if label in ("", one)))

    def _count(self, label: str) -> int:
        return sum(one == label for one in self.labels.values())

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _draw(self, label: str) -> bytes:
        file = io.BytesIO()
        draw_image(label, self._number, 48).save(file, "PNG")
        return file.getvalue()

    def _put(self, path: str, data: bytes) -> None:
        self._client.put_object(Bucket=SOURCE_BUCKET, Key=f"all/{path}", Body=data)
