"""The log of answered images, for drift and review: small PNG files and lines of JSON, by day.

    FOLDER/images/2026-11-26/<sha256>.png   what the network saw: 224x224 pixels, without any metadata of the file
    FOLDER/answers/2026-11-26.jsonl         one line for each answer, with the name of its image
    FOLDER/shadow/2026-11-26.jsonl          one line for each answer that the shadow model gave, too

`python -m tasks.score FOLDER/images` scores them again. The oldest days are removed when there are too many bytes; if
only today is left, what comes is skipped.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

from tasks.files import sha256_hex
from tasks.images.decoding import Pixels

MOST_BYTES = 10_000_000_000
_IMAGE_BYTES = 160_000
"""At most, with its answers: noise can't be compressed."""
_MOST_WAITING = 64
_log = logging.getLogger("tasks.serve")


class ImageLog:
    """Written by a thread; what comes faster than the disk writes is skipped, so that no answer waits.

    Args:
        folder: made if it is missing.
        on_outcome: told `written` or `skipped` for each image.
        most_bytes: of everything.
    """

    def __init__(self, folder: Path, on_outcome: Callable[[str], None], most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._on_outcome, self._most_bytes = folder, on_outcome, most_bytes
        for name in ("images", "answers", "shadow"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._bytes = {day.name: self._size(day.name) for day in (folder / "images").iterdir()}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log")
        self._room = BoundedSemaphore(_MOST_WAITING)

    def add(self, version: str, pixels: Sequence[Pixels], answers: Sequence[dict[str, Any]]) -> None:
        """Log the answers to some images."""
        self._later(lambda: self._write(version, pixels, answers), len(answers))

    def add_shadow(self, lines: Sequence[dict[str, Any]]) -> None:
        """Log what the shadow model said."""
        self._later(lambda: self._has_room(0) and self._append("shadow", lines), 0)

    def close(self) -> None:
        self._thread.shutdown()

    def _later(self, write: Callable[[], bool], images: int) -> None:
        if not self._room.acquire(blocking=False):
            self._tell("skipped", images)
            return

        def work() -> None:
            try:
                self._tell("written" if write() else "skipped", images)
            except OSError as error:
                _log.warning("The log can't be written: %s", error)
                self._tell("skipped", images)
            finally:
                self._room.release()

        self._thread.submit(work)

    def _tell(self, outcome: str, images: int) -> None:
        for _ in range(images):
            self._on_outcome(outcome)

    def _write(self, version: str, pixels: Sequence[Pixels], answers: Sequence[dict[str, Any]]) -> bool:
        if not self._has_room(len(answers) * _IMAGE_BYTES):
            return False
        day = self._folder / "images" / _today()
        day.mkdir(exist_ok=True)
        lines = []
        for image, answer in zip(pixels, answers, strict=True):
            name = sha256_hex(image.tobytes())
            path = day / f"{name}.png"
            if not path.exists():
                data = _png(image)
                path.write_bytes(data)
                self._count(len(data))
            lines.append({"image": f"{day.name}/{path.name}", "model": version, **answer})
        return self._append("answers", lines)

    def _append(self, kind: str, lines: Sequence[dict[str, Any]]) -> bool:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        text = "".join(json.dumps({"time": now, **line}, ensure_ascii=False) + "\n" for line in lines)
        with (self._folder / kind / f"{_today()}.jsonl").open("a", encoding="utf-8") as file:
            file.write(text)
        self._count(len(text.encode()))
        return True

    def _count(self, size: int) -> None:
        self._bytes[_today()] = self._bytes.get(_today(), 0) + size

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes may be written; older days are removed if they have to be."""
        while sum(self._bytes.values()) + size > self._most_bytes:
            oldest = min(self._bytes, default=_today())
            if oldest == _today():
                return False
            shutil.rmtree(self._folder / "images" / oldest, ignore_errors=True)
            for kind in ("answers", "shadow"):
                (self._folder / kind / f"{oldest}.jsonl").unlink(missing_ok=True)
            del self._bytes[oldest]
        return True

    def _size(self, day: str) -> int:
        files = [*(self._folder / "images" / day).glob("*.png"), *self._folder.glob(f"*/{day}.jsonl")]
        return sum(path.stat().st_size for path in files)


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _png(pixels: Pixels) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
