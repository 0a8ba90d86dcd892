"""All strategies, in both recipes: `dvc repro` in a fresh workspace against a tutorial's script.

    python -m benchmarks.strategies FOLDER [--recipes modern,tutorial] [--epochs 10]

FOLDER holds train/<class>/* and val/<class>/*; val is the held-out test. Prints a table and one JSON line. The seconds
of a strategy are those of its `train` stage; the shared stages (images, features, metrics) have their own line.
Images/s counts every image in every epoch of training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.extraction import read_costs
from benchmarks.workspaces import PROJECT, make_workspace, run
from tasks.images.manifest import read_examples
from tasks.params import change_settings
from tasks.settings import STRATEGIES
from tasks.workspace import PREPARED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipes", default="modern,tutorial")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the script")
    options = parser.parse_args()
    print("| recipe | strategy | validation | test (95 % interval) | seconds | images/s |")
    print("|---|---|---:|---:|---:|---:|", flush=True)
    folder = options.folder.resolve()
    script = json.loads(run(PROJECT, "benchmarks.baseline", str(folder), "--epochs", str(options.epochs)))
    measured: dict[str, Any] = {"script": script}
    seen = options.epochs * sum(1 for _ in (folder / "train").glob("*/*.*"))
    took, correct = script["seconds"], script["val_accuracy"][-1]
    print(f"| script | extraction | | {correct:.3f} | {took:.0f} | {seen / took:.1f} |", flush=True)
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as temporary:
        workspace = make_workspace(Path(temporary) / "strategies")
        for recipe in options.recipes.split(","):
            measured[recipe] = measure(workspace, folder, recipe)
            ours = measured[recipe]["seconds"]
            print(f"{recipe}: all strategies {ours:.0f} s, script / ours {took / ours:.2f}", flush=True)
    print(json.dumps(measured))


def measure(workspace: Path, folder: Path, recipe: str) -> dict[str, Any]:
    """One recipe, from images to metrics; prints its rows."""
    changes = {"source": {"uri": str(folder)}, "strategies": list(STRATEGIES), "train": {"recipe": recipe}}
    change_settings(workspace, changes)
    start = time.perf_counter()
    run(workspace, "dvc", "repro", "--quiet", "evaluate")
    seconds = time.perf_counter() - start
    metrics = json.loads((workspace / "reports/metrics.json").read_text())
    images = sum(one.split == "train" for one in read_examples(workspace / PREPARED))
    trained = 0.0
    for name, one in metrics["strategies"].items():
        test, took = one["test"], read_costs(workspace, f"train@{name}")["seconds"]
        low, high = test["accuracy_ci95"]
        model = json.loads((workspace / f"models/trained/{name}/model.json").read_text())
        epochs = len(model["summary"].get("history", {}).get("loss", []))
        rate = f"{epochs * images / took:.1f}" if epochs else ""
        shown = f"{name} (collapsed)" if model["problem"] else f"**{name}**" if name == metrics["champion"] else name
        print(
            f"| {recipe} | {shown} | {one['validation']['accuracy']:.3f} "
            f"| {test['accuracy']:.3f} ({low:.3f} to {high:.3f}) | {took:.0f} | {rate} |",
            flush=True,
        )
        trained += took
    print(f"| {recipe} | shared stages | | | {seconds - trained:.0f} | |", flush=True)
    return {"seconds": round(seconds, 1), "champion": metrics["champion"], "strategies": metrics["strategies"]}


if __name__ == "__main__":
    main()
