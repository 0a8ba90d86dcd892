"""Gathers images of different requests into batches: as many as wait while the network computes the last ones."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from tasks.images.decoding import Pixels
from tasks.serving.models import Served

BATCH_SIZE = 8
_FIRST_RATE = 10.0
_WEIGHT = 0.2

Answer = dict[str, Any]
OnBatch = Callable[[Served, Sequence[Pixels], Sequence[Answer]], None]


class _Waiting(NamedTuple):
    served: Served
    pixels: Pixels
    answer: asyncio.Future[Answer]


class Batches:
    """The only caller of the network; start `run` as a task.

    Args:
        on_batch: told of each batch and its answers, in the loop; must be quick.

    Attributes:
        rate: images/s, the average of the last batches.
        began: when the batch that is computed now began, `time.monotonic`; None: none is.
    """

    def __init__(self, on_batch: OnBatch) -> None:
        self._on_batch = on_batch
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._network = ThreadPoolExecutor(1, thread_name_prefix="network")
        self.rate = _FIRST_RATE
        self.began: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    async def answer(self, served: Served, pixels: Pixels) -> Answer:
        """What a model says about an image (224, 224, 3) uint8; if the caller gives up, it isn't computed."""
        one = _Waiting(served, pixels, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._arrived.set()
        return await one.answer

    async def run(self) -> None:
        """Compute for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            if batch := self._take():
                pixels = [one.pixels for one in batch]
                self.began = time.monotonic()
                try:
                    answers = await loop.run_in_executor(self._network, batch[0].served.model.answer, pixels)
                except Exception as error:  # noqa: BLE001 - it belongs to those who wait for it
                    for one in batch:
                        if not one.answer.done():
                            one.answer.set_exception(error)
                    continue
                finally:
                    took, self.began = time.monotonic() - self.began, None
                self.rate += _WEIGHT * (len(batch) / max(took, 1e-6) - self.rate)
                for one, answer in zip(batch, answers, strict=True):
                    if not one.answer.done():
                        one.answer.set_result(answer)
                self._on_batch(batch[0].served, pixels, answers)
            else:
                self._arrived.clear()

    def _take(self) -> list[_Waiting]:
        """The next images that somebody waits for, of one model."""
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < BATCH_SIZE:
            if batch and self._waiting[0].served is not batch[0].served:
                break
            one = self._waiting.popleft()
            if not one.answer.done():
                batch.append(one)
        return batch
