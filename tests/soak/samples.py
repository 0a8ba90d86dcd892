"""Memory and disk while the soak runs, and whether they stayed flat."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import psutil

from tests.soak.record import Sample
from tests.soak.site import Site

EVERY_S = 30.0
MAY_GROW = 1.25
MAY_GROW_MB = 30.0
"""What the last third may have more than the first: a share, and MB that always are allowed."""
_LEAST = 9
MEASURES = {
    "server_mb": "memory of the server",
    "worker_mb": "memory of the worker",
    "clone_mb": "disk of the clone",
    "prefect_mb": "disk of Prefect",
}


def take(site: Site) -> Sample:
    memory = {name: _memory_mb(service.process_id) for name, service in site.services.items()}
    return Sample(time.time(), memory["server"], memory["worker"], site.disk.used_mb(), _size_mb(site.home))


def _memory_mb(process_id: int | None) -> float | None:
    """Resident memory; None if it isn't there or has only begun to start."""
    if process_id is None:
        return None
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(process_id)
        if time.time() - process.create_time() > EVERY_S:
            return float(process.memory_info().rss) / 1e6
    return None


def _size_mb(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total / 1e6


def thirds(samples: Sequence[Sample], measure: str) -> tuple[float, float] | None:
    """Medians of the first and of the last third of a measure; None if there are too few samples."""
    values = [value for one in samples if (value := getattr(one, measure)) is not None]
    if len(values) < _LEAST:
        return None
    third = len(values) // 3
    return median(values[:third]), median(values[-third:])


def grown(samples: Sequence[Sample]) -> list[str]:
    """The measures that grew too much, in words."""
    found = []
    for measure, name in MEASURES.items():
        both = thirds(samples, measure)
        if both is not None and both[1] > max(both[0] * MAY_GROW, both[0] + MAY_GROW_MB):
            found.append(f"the {name} grew from {both[0]:.0f} to {both[1]:.0f} MB")
    return found
