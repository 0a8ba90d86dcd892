"""Feature extraction, from images to an evaluated model: `dvc repro evaluate` against the tutorial's way.

Both sides start cold, as new processes, on the same images and the same machine. It also measures which share of the
network's own rate the `features` stage reaches, and the seconds of a second run with another head setting.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from benchmarks.workspaces import PROJECT, make_workspace, run


def measure(data: Path, temporary: Path, epochs: int = 10) -> dict[str, float]:
    """Run both sides; returns what it measured, and prints them as they come."""
    workspace = make_workspace(temporary / "extraction")
    params = workspace / "params.yaml"
    params.write_text(params.read_text().replace("uri: digits", f"uri: {data.resolve()}"))

    start = time.perf_counter()
    run(workspace, "dvc", "repro", "--quiet", "evaluate")
    ours = time.perf_counter() - start
    costs = read_costs(workspace, "features")
    test = json.loads((workspace / "reports/metrics.json").read_text())["strategies"]["feature_extraction"]["test"]
    print(f"rootstock, cold: {ours:.1f} s, test accuracy {test['accuracy']:.3f} (n = {test['n']})", flush=True)

    alone = json.loads(run(PROJECT, "benchmarks.network", str(workspace)))["images_per_s"]
    share = costs["images_per_s"] / alone
    print(f"features stage {costs['images_per_s']:.1f} images/s, network alone {alone:.1f}: {share:.2f}", flush=True)

    params.write_text(params.read_text().replace("refit_with_validation: true", "refit_with_validation: false"))
    start = time.perf_counter()
    run(workspace, "dvc", "repro", "--quiet", "evaluate")
    again = time.perf_counter() - start
    unchanged = read_costs(workspace, "features") == costs
    print(f"another head setting: {again:.1f} s, features stage {'not run' if unchanged else 'run'}", flush=True)

    tutorial = json.loads(run(PROJECT, "benchmarks.baseline", str(data), "--epochs", str(epochs)).splitlines()[-1])
    print(f"tutorial, {epochs} epochs: {tutorial['seconds']:.1f} s, val accuracy {tutorial['val_accuracy'][-1]:.3f}")
    print(f"ratio cold {tutorial['seconds'] / ours:.1f}, head changed {tutorial['seconds'] / again:.1f}", flush=True)
    return {
        "seconds": round(ours, 1),
        "tutorial_seconds": tutorial["seconds"],
        "ratio_cold": round(tutorial["seconds"] / ours, 1),
        "ratio_head_changed": round(tutorial["seconds"] / again, 1),
        "share_of_network_rate": round(share, 3),
    }


def read_costs(workspace: Path, stage: str) -> dict[str, float]:
    costs: dict[str, float] = json.loads((workspace / f".rootstock/costs/{stage}.json").read_text())
    return costs
