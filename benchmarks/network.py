"""The network's own rate: pictures that are in memory, through the same engine as the `features` stage, nothing else.

python -m benchmarks.network WORKSPACE
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tasks import features, prepare
from tasks.pictures.shards import open_shards
from tasks.settings import load_settings
from tasks.vgg.engines import build_extractor, choose_engine
from tasks.vgg.weights import load_weights

BATCHES = 6


def main() -> None:
    workspace = Path(sys.argv[1])
    settings = load_settings(workspace).features
    weights = load_weights()
    engine = choose_engine(settings, weights)
    extract = build_extractor(engine, weights, features.BOUNDARY, settings.batch_size)
    shards = open_shards(workspace / prepare.SHARDS)
    keys = [row["key"] for header in shards.headers for row in header.rows]
    batch = shards.read([keys[place % len(keys)] for place in range(settings.batch_size)])
    extract(batch)
    start = time.perf_counter()
    for _ in range(BATCHES):
        extract(batch)
    rate = BATCHES * settings.batch_size / (time.perf_counter() - start)
    print(json.dumps({"engine": str(engine), "pictures_per_s": round(rate, 2)}))


if __name__ == "__main__":
    main()
