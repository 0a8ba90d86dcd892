"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Measurements:
    """The counters of one server."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        self.requests = Counter("rootstock_requests", "Requests to /predict", ["status"], registry=own)
        self.seconds = Histogram(
            "rootstock_request_seconds", "Duration of requests to /predict", buckets=_SECONDS, registry=own
        )
        self.images = Counter("rootstock_images", "Images: answered, or their reason code", ["outcome"], registry=own)
        self.labels = Counter("rootstock_labels", "Answers of each class", ["label"], registry=own)
        self.told = Counter("rootstock_told", "Answers that are unsure, or foreign", ["what"], registry=own)
        self.batch = Histogram("rootstock_batch_images", "Images in a batch", buckets=range(1, 9), registry=own)
        self.shadow = Counter("rootstock_shadow_images", "same, different or skipped", ["label"], registry=own)
        self.logged = Counter("rootstock_logged_images", "written or skipped", ["outcome"], registry=own)

    def gauge(self, name: str, about: str, read: Callable[[], float]) -> None:
        """Show a number that is read when somebody asks."""
        Gauge(f"rootstock_{name}", about, registry=self._registry).set_function(read)

    def count_answers(self, answers: Sequence[dict[str, Any]]) -> None:
        self.batch.observe(len(answers))
        for answer in answers:
            self.labels.labels(answer["label"]).inc()
            for what in ("unsure", "foreign"):
                if answer.get(what):
                    self.told.labels(what).inc()

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)
