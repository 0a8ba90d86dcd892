"""Decoding rate of the `prepare` stage, against Pillow alone and Keras' `image_dataset_from_directory`.

    python -m benchmarks.data.throughput [--images 4000] [--photographs 1200]

All sides turn the same JPEG files into 224x224 RGB on all cores: images of 500x375 pixels, and photographs of
2000x1500. `prepare` also checks and describes each image, writes shards with checksums, looks for duplicates and
assigns splits. Pillow antialiases, as `prepare` does; Keras doesn't. The start of Python is not counted on any side;
the start of the workers of `prepare` is. `read_again` is the rate of a later epoch or stage, which reads the shards,
while Keras decodes again. Prints one JSON object.
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
from benchmarks.data.making import write_images
from benchmarks.extraction import read_costs
from benchmarks.workspaces import run
from tasks.images.shards import open_shards
from tasks.workspace import SHARDS

BATCH_SIZE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4_000, help="of 500x375 pixels")
    parser.add_argument("--photographs", type=int, default=1_200, help="of 2000x1500 pixels")
    options = parser.parse_args()
    measured = {
        "500x375": measure(options.images, (500, 375)),
        "2000x1500": measure(options.photographs, (2000, 1500)),
    }
    print(json.dumps(measured, indent=2))


def measure(images: int, size: tuple[int, int]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as folder:
        source = write_images(Path(folder) / "images", range(images), size)
        prepare, again = of_prepare(Path(folder), source)
        pillow, keras = of_pillow(source), of_keras(source)
    return {
        "images": images,
        "prepare_images_per_s": round(prepare, 1),
        "pillow_images_per_s": round(pillow, 1),
        "keras_images_per_s": round(keras, 1),
        "read_again_images_per_s": round(again, 1),
        "ratio_to_pillow": round(prepare / pillow, 2),
        "ratio_to_keras": round(prepare / keras, 2),
        "ratio_to_keras_over_10_epochs": round(10 / keras / (1 / prepare + 9 / again), 2),
    }


def of_prepare(temporary: Path, source: Path) -> tuple[float, float]:
    """Images/s of the stage, and of reading what it wrote, in its order."""
    workspace = workspace_of(temporary / "workspace", source)
    run(workspace, "tasks.ingest")
    run(workspace, "tasks.prepare")
    costs = read_costs(workspace, "prepare")
    start = time.perf_counter()
    shards = open_shards(workspace / SHARDS)
    keys = shards.order(row["key"] for header in shards.headers for row in header.rows)
    for place in range(0, len(keys), BATCH_SIZE):
        shards.read(keys[place : place + BATCH_SIZE])
    return costs["decoded"] / costs["seconds"], len(keys) / (time.perf_counter() - start)


def of_pillow(source: Path) -> float:
    files = sorted(source.glob("*/*.jpg"))
    with ProcessPoolExecutor() as pool:
        list(pool.map(stretch, files[:8]))
        start = time.perf_counter()
        count = sum(pool.map(stretch, files, chunksize=16))
        return count / (time.perf_counter() - start)


def stretch(file: Path) -> int:
    with Image.open(file) as image:
        image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
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
