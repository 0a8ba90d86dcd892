"""The search for near duplicates among hashes with planted pairs, against comparing all hashes with all.

    python -m benchmarks.data.duplicates [--hashes 1000000] [--radius 10]

Prints one JSON object. Peak memory is what the process needs in addition to its memory before the search. The quadratic
search is measured on 20,000 hashes, with the same kernel, and extrapolated.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from tasks.images.duplicates import RADIUS, Hashes, groups, near_pairs

QUADRATIC = 20_000
ROWS = 16
PLANTED_SHARE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--radius", type=int, default=RADIUS)
    options = parser.parse_args()
    print(json.dumps(compare(options.hashes, options.radius), indent=1))


def compare(n: int, radius: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    hashes, planted = plant(rng, n, radius)
    seconds, peak_mb, pairs = measure(lambda: near_pairs(hashes, radius))
    group = groups(n, pairs)
    quadratic_s = seconds_of_all_with_all(hashes[:QUADRATIC], radius)
    crowd = crowded(rng, QUADRATIC)
    crowd_s, _, crowd_pairs = measure(lambda: near_pairs(crowd, radius))
    return {
        "hashes": n,
        "radius": radius,
        "seconds": round(seconds, 1),
        "peak_mb_above_start": round(peak_mb),
        "planted_pairs": len(planted),
        "planted_found": int((group[planted[:, 0]] == group[planted[:, 1]]).sum()),
        "pairs": len(pairs),
        "all_with_all_20000_s": round(quadratic_s, 2),
        "all_with_all_extrapolated_s": round(quadratic_s * (n / QUADRATIC) ** 2),
        "times_faster": round(quadratic_s * (n / QUADRATIC) ** 2 / seconds, 1),
        "crowd_of_20000_s": round(crowd_s, 3),
        "crowd_groups": QUADRATIC - len(crowd_pairs),
    }


def plant(rng: np.random.Generator, n: int, radius: int) -> tuple[Hashes, np.ndarray]:
    """Random hashes, and the places of pairs that differ in at most `radius` bits."""
    hashes = rng.integers(0, 2**64 - 1, n, dtype=np.uint64, endpoint=True)
    planted = rng.choice(n, (int(n * PLANTED_SHARE), 2), replace=False)
    hashes[planted[:, 1]] = hashes[planted[:, 0]]
    for _ in range(radius):
        hashes[planted[:, 1]] ^= np.uint64(1) << rng.integers(0, 64, len(planted)).astype(np.uint64)
    return hashes, planted


def crowded(rng: np.random.Generator, n: int) -> Hashes:
    """Hashes of almost blank images: all within two bits of one."""
    return np.uint64(1 << 63) ^ (np.uint64(1) << rng.integers(0, 64, n).astype(np.uint64))


def seconds_of_all_with_all(hashes: Hashes, radius: int) -> float:
    start = time.perf_counter()
    for row in range(0, len(hashes), ROWS):
        near = np.bitwise_count(hashes[row : row + ROWS, None] ^ hashes[None, row:]) <= radius
        np.count_nonzero(near)
    return time.perf_counter() - start


def measure(work: Callable[[], np.ndarray]) -> tuple[float, float, np.ndarray]:
    """Seconds, growth of the resident memory up to its peak in MB (sampled every 20 ms), and the result."""
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    try:
        result = work()
        seconds = time.perf_counter() - start
    finally:
        done.set()
        watcher.join()
    return seconds, (peak - before) / 2**20, result


if __name__ == "__main__":
    main()
