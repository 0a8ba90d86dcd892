"""Does the memory of training grow with the examples? Trains on stored features of few and of many random examples.

    python -m benchmarks.training_memory [--few 1000] [--many 50000] [--steps 200]
    python -m benchmarks.training_memory --probe --classes 200 --few 21000 --many 100000

Each side is its own process: it trains a head on block5_pool shards (50 KB an example) by gradient descent, or fits a
linear probe (`--probe`), and reports the peak of its memory without the pages of files, which the system takes back
when it needs them. Needs 2.5 GB of disk for 50,000 examples, below the current folder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.workspaces import PROJECT, run
from tasks.parallel import one_blas_thread

SHAPE, SHARD = (7, 7, 512), 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--probe", action="store_true", help="fit a linear probe")
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="train on the examples of this folder (used internally)")
    options = parser.parse_args()
    if options.folder:
        with one_blas_thread():
            peak = peak_mb(
                lambda: fit(options.folder, options.classes) if options.probe else train(options.folder, options.steps)
            )
        print(json.dumps({"peak_mb": peak}))
        return
    peaks = []
    for count in (options.few, options.many):
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-") as folder:
            write(Path(folder), count, options.classes)
            given = ["--folder", folder, "--steps", str(options.steps), "--classes", str(options.classes)]
            line = run(PROJECT, "benchmarks.training_memory", *given, *(["--probe"] if options.probe else []))
        peaks.append(json.loads(line.splitlines()[-1])["peak_mb"])
        print(f"{count} examples: peak {peaks[-1]:.0f} MB", flush=True)
    growth = (peaks[1] - peaks[0]) * 1e6 / (options.many - options.few)
    print(f"ratio {peaks[1] / peaks[0]:.3f}; {growth:.0f} bytes an example, of {2 * np.prod(SHAPE)} that it has")


def peak_mb(work: Callable[[], object]) -> float:
    """The peak of this process' memory without the pages of files while `work` runs, MB; looked at every 20 ms."""
    peak, done = 0.0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.02):
            status = Path("/proc/self/status").read_text()
            peak = max(peak, int(status.split("RssAnon:")[1].split()[0]) / 1e3)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak


def write(folder: Path, count: int, classes: int) -> None:
    """Random features; those of a class have the same mean. Example `number` has the class `number % classes`."""
    from tasks.images.shards import Writer

    rng = np.random.default_rng(0)
    noise, means = rng.random((SHARD, *SHAPE)).astype(np.float16), rng.random((classes, SHAPE[-1])).astype(np.float16)
    writer = Writer(folder, "simulated", SHARD)
    for number in range(count):
        writer.add({"key": f"{number:064x}"}, noise[rng.integers(SHARD)] + means[number % classes])
    writer.close()


def fit(folder: Path, classes: int) -> None:
    """Fit a linear probe as `train@feature_extraction` does; one example in five is for validation."""
    from tasks.images.shards import open_shards
    from tasks.params import load_settings
    from tasks.vgg.training.linear_probe import fit_linear_probe
    from tasks.vgg.training_data import Split

    shards = open_shards(folder)
    keys = np.array([row["key"] for header in shards.headers for row in header.rows])
    labels = np.array([int(key, 16) % classes for key in keys], np.int32)
    held = np.arange(len(keys)) % 5 == 4
    splits = [Split(shards, tuple(keys[part].tolist()), labels[part]) for part in (~held, held)]
    probe = fit_linear_probe(load_settings(PROJECT).train.modern, "none", classes, *splits)
    print(f"{len(keys)} examples, chosen {probe.summary['chosen']}", flush=True)


def train(folder: Path, steps: int) -> None:
    """Train a head for some steps over all examples."""
    from tasks.vgg.quiet_tensorflow import load_tensorflow

    load_tensorflow()
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
    compiled = Steps(network, phase, choose_devices())
    for batch in islice(feed.shuffled(32, 0, 0, 0, 0, epochs=-(-steps // feed.steps(32))), steps):
        compiled.train(batch, 1.0)


if __name__ == "__main__":
    main()
