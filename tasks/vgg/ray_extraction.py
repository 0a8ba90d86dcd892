"""Feature extraction on many machines, by Ray: images are sent to the workers, so the machines need no shared disk.

RAY_ADDRESS names the cluster; without it, Ray starts on this machine. Every machine needs this project's environment
with the extra `ray`; the weights are sent to each once. The result is the same as on one machine, in the same order.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tasks.errors import SettingsError
from tasks.parallel import in_order
from tasks.vgg.engines import Engine, Halves, Pixels, build_extractor, by_image, in_batches
from tasks.vgg.weights import Weights

_WAITING_PER_WORKER = 2
"""Limits the memory: one batch is computed, one waits."""


class Extractor:
    """What a worker keeps: the network, on one core or one GPU."""

    def __init__(self, engine: Engine, weights: Weights, boundaries: Sequence[str], batch_size: int) -> None:
        self._extract = build_extractor(engine, weights, boundaries, batch_size, cores=1)

    def extract(self, batch: Pixels) -> tuple[Halves, ...]:
        return self._extract(batch)


def extract_on_ray(
    engine: Engine, weights: Weights, boundaries: Sequence[str], images: Iterable[tuple[str, Pixels]], batch_size: int
) -> Iterator[tuple[str, tuple[Halves, ...]]]:
    """As `engines.extract_here`, by one worker for each core (or GPU) of the cluster.

    Raises:
        SettingsError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise SettingsError("features.distribute=ray needs Ray on every machine: uv pip install 'ray>=2.50'") from None
    ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, include_dashboard=False)
    try:
        workers = _workers(ray, engine, weights, boundaries, batch_size)
        turns = zip(itertools.cycle(workers), in_batches(images, batch_size), strict=False)
        begun = ((keys, worker.extract.remote(batch)) for worker, (keys, batch) in turns)
        for keys, reference in in_order(begun, _WAITING_PER_WORKER * len(workers) + 1):
            yield from by_image(keys, ray.get(reference))
    finally:
        ray.shutdown()


def _workers(ray: Any, engine: Engine, weights: Weights, boundaries: Sequence[str], batch_size: int) -> list[Any]:
    resources = ray.cluster_resources()
    on_gpu = engine.name == "tensorflow" and resources.get("GPU", 0) > 0
    options = {"num_gpus": 1} if on_gpu else {"num_cpus": 1}
    count = max(1, int(resources.get("GPU" if on_gpu else "CPU", 1)))
    shared = ray.put(weights)
    remote = ray.remote(**options)(Extractor)
    return [remote.remote(engine, shared, boundaries, batch_size) for _ in range(count)]
