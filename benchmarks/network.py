"""The network's own rate: an engine computes images that are already in memory.

    python -m benchmarks.network WORKSPACE             # the engine that the `features` stage uses
    python -m benchmarks.network WORKSPACE --used      # by the engines of its features: seconds for all its images
    python -m benchmarks.network WORKSPACE --compare   # all engines against TensorFlow in float32, the usual way

WORKSPACE holds prepared images, and features for `--used`. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from tasks.files import read_json
from tasks.images.manifest import read_examples
from tasks.images.shards import open_shards
from tasks.params import load_settings
from tasks.vgg.boundaries import BOTTLENECK, RECIPE
from tasks.vgg.calibration import FILE
from tasks.vgg.engine_choice import choose_engine
from tasks.vgg.engines import Engine, Pixels, build_extractor
from tasks.vgg.quantized import measure_ranges
from tasks.vgg.weights import Weights, load_weights
from tasks.workspace import Workspace

BATCHES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--used", action="store_true")
    options = parser.parse_args()
    workspace = Workspace.at(options.workspace)
    settings = load_settings(options.workspace).features
    weights = load_weights()
    shards = open_shards(workspace.shards)
    keys = [row["key"] for header in shards.headers for row in header.rows]
    batch = shards.read([keys[place % len(keys)] for place in range(settings.batch_size)])
    if options.used:
        print(json.dumps(seconds_for_all(workspace, weights, batch)))
        return
    if not options.compare:
        engine = choose_engine(settings, weights, workspace)
        print(json.dumps({"engine": str(engine), "images_per_s": round(rate(engine, weights, batch)[0], 2)}))
        return
    ranges = measure_ranges(weights, batch)
    exact = None
    found = {}
    for engine in (
        Engine("tensorflow", "float32"),  # the usual way
        Engine("tensorflow", "bfloat16"),
        Engine("ncnn", "float32"),
        Engine("onnxruntime", "int8", ranges),
    ):
        speed, outputs, _ = rate(engine, weights, batch)
        exact = outputs if exact is None else exact
        cosine = (exact * outputs).sum() / (np.linalg.norm(exact) * np.linalg.norm(outputs))
        found[str(engine)] = {"images_per_s": round(speed, 2), "cosine": round(float(cosine), 5)}
    usual = found["tensorflow in float32"]["images_per_s"]
    for about in found.values():
        about["ratio"] = round(about["images_per_s"] / usual, 2)
    print(json.dumps(found))


def seconds_for_all(workspace: Workspace, weights: Weights, batch: Pixels):
    """The network's own time for every image of a workspace, once, by the engine that computed its features."""
    recipe = read_json(workspace.features / BOTTLENECK / RECIPE)
    engines = {"evaluated": Engine(recipe["engine"], recipe["precision"])}
    if "training_engine" in recipe:
        calibration = workspace.features / BOTTLENECK / FILE
        ranges = tuple(read_json(calibration)["ranges"]) if calibration.exists() else ()
        engines["training"] = Engine(recipe["training_engine"], recipe["training_precision"], ranges)
    examples = read_examples(workspace.prepared)
    training = sum(one.split == "train" for one in examples) if len(engines) > 1 else 0
    counts = {"evaluated": len(examples) - training, "training": training}
    measured = {part: rate(engine, weights, batch) for part, engine in engines.items()}
    rates = {part: found[0] for part, found in measured.items()}
    seconds = sum(counts[part] / rates[part] for part in engines)
    cpu_seconds = sum(counts[part] * measured[part][2] for part in engines)
    told = {part: f"{counts[part]} images, {engines[part]}: {rates[part]:.1f} images/s" for part in engines}
    return {**told, "seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2)}


def rate(engine: Engine, weights: Weights, batch: Pixels):
    """Images/s after the first batch, that batch's features (n, 7, 7, 512) float32, CPU seconds an image."""
    extract = build_extractor(engine, weights, (BOTTLENECK,), len(batch))
    result = extract(batch)[0].astype(np.float32)
    start, used = time.perf_counter(), time.process_time()
    for _ in range(BATCHES):
        extract(batch)
    images = BATCHES * len(batch)
    return images / (time.perf_counter() - start), result, (time.process_time() - used) / images


if __name__ == "__main__":
    main()
