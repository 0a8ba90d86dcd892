"""What does `evaluate` cost besides the network, and does its memory grow with the images? On simulated images.

    python -m benchmarks.evaluate [--few 1000] [--many 10000] [--classes 10] [--shift-images 0]

Each side is one run of the stage with everything on, in a process of its own, on features, 224 px images and a linear
head whose mistakes are made up; a fifth of the images is test. Measured are CPU seconds and peak memory. The network's
own time is that of the images that pass it, at the rate of the same machine (24 drawings, once in a clone; and those of
`evaluate.shift_images`); the stage itself tells it. Needs 0.2 MB of disk an image below the current folder.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.workspaces import make_workspace, run
from tasks.files import read_json, write_json
from tasks.images import quality
from tasks.images.manifest import Example, write_duplicates, write_examples, write_quarantine
from tasks.images.shards import Writer
from tasks.vgg.head import Dense, Head, pool
from tasks.vgg.trained_model import Trained, save_trained
from tasks.workspace import Workspace

SHARD, SIDE = 256, 224
RECIPE = {"engine": "ncnn", "precision": "float32", "decoder": "simulated", "version": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--shift-images", type=int, default=0)
    options = parser.parse_args()
    print("| images | first run, CPU s | again, CPU s | again, wall s | peak memory, MB |\n|---:|---:|---:|---:|---:|")
    peaks = []
    for count in (options.few, options.many):
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-") as name:
            folder = make_workspace(Path(name) / "clone")
            simulate(Workspace.at(folder), count, options.classes)
            params = (folder / "params.yaml").read_text(encoding="utf-8")
            shift = params.replace("shift_images: 0", f"shift_images: {options.shift_images}")
            (folder / "params.yaml").write_text(shift, encoding="utf-8")
            first, again = measure(folder), measure(folder)
        peaks.append(again["peak_memory_mb"])
        print(
            f"| {count:,} | {first['cpu_seconds']:.1f} | {again['cpu_seconds']:.1f} | {again['seconds']:.1f} | "
            f"{again['peak_memory_mb']:.0f} |",
            flush=True,
        )
    growth = 1e3 * (peaks[1] - peaks[0]) / (options.many - options.few)
    print(f"\nMemory: ratio {peaks[1] / peaks[0]:.2f}, {growth:.0f} KB an image")


def measure(folder: Path) -> dict[str, float]:
    """One run of the stage: its costs."""
    run(folder, "tasks.evaluate")
    costs: dict[str, float] = read_json(Workspace.at(folder).costs / "evaluate.json")
    return costs


def simulate(workspace: Workspace, count: int, classes: int) -> None:
    """Write what the earlier stages leave: images, features around the mean of their class, and a trained head."""
    rng = np.random.default_rng(0)
    names = tuple(f"class {number:03d}" for number in range(classes))
    means = rng.gamma(0.5, 1.0, (classes, 512))
    labels = rng.integers(0, classes, count)
    pixels = Writer(workspace.shards, "simulated", SHARD)
    features = Writer(workspace.features / "block5_pool", "simulated", SHARD)
    coarse = rng.integers(0, 256, (SHARD, 7, 7, 3)).astype(np.uint8)
    images = [np.kron(one, np.ones((SIDE // 7, SIDE // 7, 1), np.uint8)) for one in coarse]
    patterns = [(image, quality.scores(image)) for image in images]
    examples = []
    for number, label in enumerate(labels.tolist()):
        key = f"{number:064x}"
        split = ("test", "validation", "train", "train", "train")[number % 5]
        examples.append(Example(key, f"{names[label]}/{number}.jpg", names[label], split, 640, 480, "JPEG", ""))
        image, scores = patterns[number % SHARD]
        pixels.add({"key": key, "scores": scores}, image)
        noise = rng.gamma(0.5, 1.0, (7, 7, 512)) + rng.gamma(0.5, 1.0, 512)
        features.add({"key": key}, (means[label] + noise).astype(np.float16))
    pixels.close()
    features.close()
    prepared = workspace.prepared
    write_examples(prepared, examples)
    write_duplicates(prepared, [])
    write_quarantine(prepared, [])
    write_json(workspace.features / "block5_pool" / "recipe.json", RECIPE)
    counts = {name: dict.fromkeys(("train", "validation", "test"), 1) for name in names}
    about = {"accepted": count, "discovered": count, "quarantined": 0, "excluded": {}, "source": {"uri": "simulated"}}
    write_json(prepared / "summary.json", {**about, "classes": counts, "quarantined_by_code": {}})
    centres = pool(np.broadcast_to(means[:, None, None], (classes, 7, 7, 512)) + 1.0, "average_maximum")
    head = Head("average_maximum", (Dense(60 * centres.T, np.zeros(classes, np.float32), "softmax"),))
    keys = tuple(one.key for one in examples if one.split == "validation")
    truth = [names.index(one.label) for one in examples if one.split == "validation"]
    logits = rng.normal(size=(len(keys), classes)) + 3 * np.eye(classes)[truth]
    known = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    summary = {"candidates": [], "chosen_on": "validation", "backbone": RECIPE}
    model = Trained(
        "feature_extraction", "modern", names, head, {}, False, None, keys, known.astype(np.float32), summary
    )
    save_trained(workspace.trained / "feature_extraction", model)


if __name__ == "__main__":
    main()
