"""The stages after `prepare` in the soak: real work on real files, but means of pixels in place of VGG16.

They keep what real stages promise: only new images are computed, files get their names when they are whole, the same
input writes the same bytes, and what is trained goes on from a checkpoint.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tasks.files import read_json, write_bytes, write_json
from tasks.images.manifest import Example, class_names, read_examples
from tasks.images.shards import open_shards
from tasks.progress import Progress
from tasks.runs.costs import keep_costs
from tasks.workspace import Workspace

EPOCHS = 20
WORKSPACE = Workspace.at(Path.cwd())
POOLED = WORKSPACE.features / "block5_pool"
MODEL = "model.json"


def features() -> None:
    """One small file for each new image; those of images that are gone are removed."""
    examples = read_examples(WORKSPACE.prepared)
    shards = open_shards(WORKSPACE.shards)
    POOLED.mkdir(parents=True, exist_ok=True)
    wanted = {f"{example.key}.f16": example for example in examples}
    for file in POOLED.iterdir():
        if file.name not in wanted:
            file.unlink()
    new = [one for name, one in wanted.items() if not (POOLED / name).exists()]
    with Progress("features", len(wanted), "images", done=len(wanted) - len(new)) as progress:
        for example in new:
            pixels = shards.read([example.key])[0].astype(np.float32).reshape(8, 28, 8, 28, 3)
            write_bytes(POOLED / f"{example.key}.f16", pixels.mean(axis=(1, 3)).astype("<f2").tobytes())
            progress.advance()
    for strategy in yaml.safe_load(WORKSPACE.params.read_text())["strategies"]:
        write_json(WORKSPACE.features / "for" / strategy / "boundaries.json", ["block5_pool"])


def train(strategy: str) -> None:
    """Means of each class by some epochs of averaging, with a checkpoint after each epoch."""
    examples = [one for one in read_examples(WORKSPACE.prepared) if one.split == "train"]
    checkpoint = WORKSPACE.checkpoints / f"{strategy}.json"
    state: dict[str, Any] = read_json(checkpoint) if checkpoint.exists() else {"epoch": 0, "keys": None}
    keys = [example.key for example in examples]
    if state["keys"] != keys:
        state = {"epoch": 0, "keys": keys, "means": {}}
    with Progress(f"train@{strategy}", EPOCHS, "epochs", done=state["epoch"]) as progress:
        for epoch in range(state["epoch"], EPOCHS):
            for label in class_names(examples):
                mean = np.mean([_read(one) for one in examples if one.label == label], axis=0)
                state["means"][label] = [round(float(number), 3) for number in mean]
            state["epoch"] = epoch + 1
            write_json(checkpoint, state)
            progress.advance(1, {"loss": 1 / (epoch + 1)})
    folder = WORKSPACE.trained / strategy
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MODEL, state["means"])
    checkpoint.unlink()


def evaluate() -> None:
    """Accuracy of the nearest mean on both held-out splits."""
    examples = read_examples(WORKSPACE.prepared)
    strategies = {}
    for folder in sorted(WORKSPACE.trained.iterdir()):
        means = read_json(folder / MODEL)
        strategies[folder.name] = {
            split: _score([one for one in examples if one.split == split], means) for split in ("validation", "test")
        } | {"train_seconds": 1.0, "recipe": "soak"}
    metrics = {"champion": min(strategies), "strategies": strategies}
    write_json(WORKSPACE.evaluation, metrics)
    write_json(WORKSPACE.metrics, metrics)
    for page in ("report.html", "map.html"):
        write_bytes(WORKSPACE.reports / page, f"<pre>{json.dumps(metrics)}</pre>\n".encode())
    write_bytes(WORKSPACE.foreign, b"")
    plots = WORKSPACE.reports / "plots"
    plots.mkdir(exist_ok=True)
    with (plots / "classes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(sorted(Counter(one.label for one in examples).items()))


def export() -> None:
    """The champion's model beside its labels."""
    champion = WORKSPACE.trained / read_json(WORKSPACE.evaluation)["champion"]
    WORKSPACE.export.mkdir(parents=True, exist_ok=True)
    write_bytes(WORKSPACE.export / MODEL, (champion / MODEL).read_bytes())
    write_bytes(WORKSPACE.export / "labels.txt", "\n".join(read_json(champion / MODEL)).encode())


def _read(example: Example) -> np.ndarray[Any, Any]:
    return np.frombuffer((POOLED / f"{example.key}.f16").read_bytes(), "<f2").astype(np.float64)


def _score(examples: list[Example], means: dict[str, list[float]]) -> dict[str, Any]:
    def nearest(example: Example) -> str:
        return min(means, key=lambda label: float(np.square(_read(example) - means[label]).sum()))

    accuracy = float(np.mean([nearest(one) == one.label for one in examples]))
    return {
        "accuracy": accuracy,
        "accuracy_ci95": [max(0.0, accuracy - 0.2), min(1.0, accuracy + 0.2)],
        "n": len(examples),
    }


def main(stage: str, *arguments: str) -> int:
    programs: dict[str, Callable[..., None]]
    programs = {"features": features, "train": train, "evaluate": evaluate, "export": export}
    programs[stage](*arguments)
    keep_costs(WORKSPACE, "@".join([stage, *arguments]), {"seconds": 1.0, "cpu_seconds": 1.0, "peak_memory_mb": 1.0})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
