"""Does the memory of training grow with the examples? Trains on stored features of few and of many random examples.

    python -m benchmarks.training_memory [--few 1000] [--many 50000] [--steps 200]

Each side is its own process: it trains a head on block5_pool shards (50 KB an example) and reports its peak resident
memory. Needs 2.5 GB of disk for 50,000 examples, below the current folder.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.workspaces import PROJECT, run

SHAPE, SHARD = (7, 7, 512), 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="train on the examples of this folder (used internally)")
    options = parser.parse_args()
    if options.folder:
        print(json.dumps({"peak_mb": train(options.folder, options.steps)}))
        return
    peaks = []
    for count in (options.few, options.many):
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-") as folder:
            write(Path(folder), count)
            line = run(PROJECT, "benchmarks.training_memory", "--folder", folder, "--steps", str(options.steps))
        peaks.append(json.loads(line.splitlines()[-1])["peak_mb"])
        print(f"{count} examples, {options.steps} steps: peak {peaks[-1]:.0f} MB", flush=True)
    growth = (peaks[1] - peaks[0]) * 1e6 / (options.many - options.few)
    print(f"ratio {peaks[1] / peaks[0]:.3f}; {growth:.0f} bytes an example, of {2 * np.prod(SHAPE)} that it has")


def write(folder: Path, count: int) -> None:
    from tasks.images.shards import Writer

    rng = np.random.default_rng(0)
    noise = rng.random((SHARD, *SHAPE)).astype(np.float16)
    writer = Writer(folder, "simulated", SHARD)
    for number in range(count):
        writer.add({"key": f"{number:064x}"}, noise[number % SHARD])
    writer.close()


def train(folder: Path, steps: int) -> float:
    """Train a head for some steps over all examples; returns the peak of resident memory, MB."""
    from tasks.images.shards import open_shards
    from tasks.vgg.head import new_head
    from tasks.vgg.strategies.base import LearningRateSetting, Phase
    from tasks.vgg.training.feeds import Feed
    from tasks.vgg.training.network import Classifier, build_network
    from tasks.vgg.training.steps import Steps, choose_devices

    shards = open_shards(folder)
    keys = tuple(row["key"] for header in shards.headers for row in header.rows)
    feed = Feed(shards, keys, np.arange(len(keys), dtype=np.int32) % 2, np.ones(len(keys), np.float32))
    phase = Phase("head", (), 1, 32, {"head": 1e-3}, LearningRateSetting("none", 1e-3))
    network = build_network(
        Classifier({}, new_head("average_maximum", SHAPE, None, 2, 0)), "block5_pool", SHAPE, (), "float32"
    )
    compiled, done = Steps(network, phase, choose_devices()), 0
    while done < steps:
        for batch in feed.shuffled(32, 0, 0, done, 0):
            compiled.train(batch, 1.0)
            done += 1
            if done == steps:
                break
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
