"""A second model that answers the same images for the log: nobody waits for its answers, and nobody gets them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tasks.files import sha256_hex
from tasks.images.decoding import Pixels
from tasks.serving.models import Served

_log = logging.getLogger("tasks.serve")


class Shadow:
    """Answers a batch at a time; batches that come meanwhile are skipped, so the first model gets most of the cores.

    Args:
        served: the shadow model.
        on_outcome: told `same`, `different` or `skipped` for each image.
        on_lines: gets a line of JSON for each image, with both answers.
    """

    def __init__(
        self, served: Served, on_outcome: Callable[[str], None], on_lines: Callable[[list[dict[str, Any]]], None]
    ) -> None:
        self._served, self._on_outcome, self._on_lines = served, on_outcome, on_lines
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._busy = False

    def offer(self, version: str, pixels: Sequence[Pixels], answers: Sequence[dict[str, Any]]) -> None:
        """Let the shadow answer a batch that the first model, of this version, has answered."""
        if self._busy:
            for _ in answers:
                self._on_outcome("skipped")
            return
        self._busy = True
        self._thread.submit(self._compare, version, pixels, answers)

    def close(self) -> None:
        self._thread.shutdown()

    def _compare(self, version: str, pixels: Sequence[Pixels], answers: Sequence[dict[str, Any]]) -> None:
        try:
            lines = []
            for image, answer, other in zip(pixels, answers, self._served.model.answer(pixels), strict=True):
                self._on_outcome("same" if answer["label"] == other["label"] else "different")
                both = {"model": version, "answer": answer, "shadow_model": self._served.version, "shadow": other}
                lines.append({"image_sha256": sha256_hex(image.tobytes()), **both})
            self._on_lines(lines)
        except Exception:  # noqa: BLE001 - nobody else waits for this thread
            _log.exception("The shadow model failed; the first model goes on.")
        finally:
            self._busy = False
