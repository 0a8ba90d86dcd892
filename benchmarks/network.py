"""The network's own rate: pictures that are in memory, through an engine, nothing else.

    python -m benchmarks.network WORKSPACE             # the engine that the `features` stage takes
    python -m benchmarks.network WORKSPACE --compare   # ncnn against TensorFlow in float32

WORKSPACE holds prepared pictures. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from tasks import features, prepare
from tasks.pictures.shards import open_shards
from tasks.settings import load_settings
from tasks.vgg.engines import Engine, Pixels, build_extractor, choose_engine
from tasks.vgg.weights import Weights, load_weights

BATCHES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--compare", action="store_true")
    options = parser.parse_args()
    settings = load_settings(options.workspace).features
    weights = load_weights()
    shards = open_shards(options.workspace / prepare.SHARDS)
    keys = [row["key"] for header in shards.headers for row in header.rows]
    batch = shards.read([keys[place % len(keys)] for place in range(settings.batch_size)])
    if not options.compare:
        engine = choose_engine(settings, weights)
        print(json.dumps({"engine": str(engine), "pictures_per_s": round(rate(engine, weights, batch)[0], 2)}))
        return
    ncnn, fast = rate(Engine("ncnn", "float32"), weights, batch)
    tensorflow, exact = rate(Engine("tensorflow", "float32"), weights, batch)
    error = np.linalg.norm(fast - exact) / np.linalg.norm(exact)
    print(
        json.dumps(
            {
                "ncnn_pictures_per_s": round(ncnn, 2),
                "tensorflow_pictures_per_s": round(tensorflow, 2),
                "ratio": round(ncnn / tensorflow, 2),
                "relative_error": float(f"{error:.1e}"),
            }
        )
    )


def rate(engine: Engine, weights: Weights, batch: Pixels):
    """Pictures/s after the first batch, and that batch's features (n, 7, 7, 512) float32."""
    extract = build_extractor(engine, weights, (features.BOUNDARY,), len(batch))
    result = extract(batch)[0].astype(np.float32)
    start = time.perf_counter()
    for _ in range(BATCHES):
        extract(batch)
    return BATCHES * len(batch) / (time.perf_counter() - start), result


if __name__ == "__main__":
    main()
