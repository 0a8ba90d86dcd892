"""Decoding rate of the `prepare` stage, against Pillow alone and Keras' `image_dataset_from_directory`.

    python -m benchmarks.data.throughput [--pictures 2000]

All sides turn the same JPEG files of 500x375 pixels into 224x224 RGB on all cores. `prepare` also checks and
describes each picture, writes shards with checksums and assigns splits. Python's start-up is not counted on any side,
that of `prepare`'s workers is. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image

from benchmarks.data.growth import workspace_of
from benchmarks.data.making import write_pictures
from benchmarks.extraction import read_costs
from benchmarks.workspaces import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder:
        source = write_pictures(Path(folder) / "pictures", range(options.pictures), (500, 375))
        rates = {
            "prepare": of_prepare(Path(folder), source),
            "pillow": of_pillow(source),
            "keras": of_keras(source),
        }
    best = max(rates["pillow"], rates["keras"])
    rounded = {f"{name}_pictures_per_s": round(rate, 1) for name, rate in rates.items()}
    print(json.dumps({**rounded, "ratio_to_best_other": round(rates["prepare"] / best, 2)}, indent=2))


def of_prepare(scratch: Path, source: Path) -> float:
    workspace = workspace_of(scratch / "workspace", source)
    run(workspace, "tasks.ingest")
    run(workspace, "tasks.prepare")
    costs = read_costs(workspace, "prepare")
    return costs["decoded"] / costs["seconds"]


def of_pillow(source: Path) -> float:
    files = sorted(source.glob("*/*.jpg"))
    with ProcessPoolExecutor() as pool:
        list(pool.map(stretch, files[:8]))
        start = time.perf_counter()
        count = sum(pool.map(stretch, files, chunksize=16))
        return count / (time.perf_counter() - start)


def stretch(file: Path) -> int:
    with Image.open(file) as picture:
        picture.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    return 1


def of_keras(source: Path) -> float:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    files = keras.utils.image_dataset_from_directory(str(source), image_size=(224, 224), verbose=False, shuffle=False)
    for _ in files.take(1):
        pass
    start = time.perf_counter()
    count = sum(int(labels.shape[0]) for _, labels in files)
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
