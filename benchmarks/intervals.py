"""How often the 95 % interval of the accuracy contains the true accuracy, and how often a difference is seen in chance.

    python -m benchmarks.intervals [--runs 1000]

Images are simulated: each group has its own accuracy (a beta distribution around the true one, with the given
intra-group correlation). Compared are Wilson's interval, which takes every image for independent, the one of
`tasks.reports.uncertainty`, and bootstraps of groups; McNemar's test, and the sign-flip test of groups. The intervals
of other metrics are counted in simulated logits.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

from tasks.reports.metrics import measure
from tasks.reports.uncertainty import accuracy_interval, compare_paired

Interval = Callable[[npt.NDArray[np.bool_], npt.NDArray[np.int64]], tuple[float, float]]
SIZES = {
    "20 groups of 50": np.full(20, 50),
    "20 groups of 5 to 200": np.geomspace(5, 200, 20).astype(int),
    "8 groups of 20": np.full(8, 20),
    "5 groups of 20": np.full(5, 20),
    "140 images, 5 pairs": np.array([1] * 140 + [2] * 5),
    "100 images": np.ones(100, int),
}
CORRELATIONS = (0.0, 0.1, 0.3)
ACCURACIES = (0.8, 0.95)
METRICS = ("balanced_accuracy", "macro_f1", "macro_roc_auc", "macro_average_precision", "log_loss", "brier")
SPREADS = (0.0, 0.3, 0.7)
"""How much the groups differ: standard deviation of what is added to the logits of all images of a group."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="simulated test sets for each row")
    runs = parser.parse_args().runs
    warnings.simplefilter("ignore")  # of bootstraps in which all images are predicted right
    intervals: dict[str, Interval] = {
        "independent images": lambda hits, _: accuracy_interval(hits),
        "reports": accuracy_interval,
        "bootstrap, percentiles": lambda hits, groups: resample(hits, groups, "percentile"),
        "bootstrap, BCa": lambda hits, groups: resample(hits, groups, "BCa"),
    }
    print("Share of intervals that contain the true accuracy / mean width in points\n")
    print("| test images | correlation | accuracy |", " | ".join(intervals), "|")
    print("|---|---:|---:|", "|".join(["---:"] * len(intervals)), "|", flush=True)
    for (name, sizes), correlation, accuracy in itertools.product(SIZES.items(), CORRELATIONS, ACCURACIES):
        if sizes.max() > 1 or not correlation:
            cells = [
                f"{100 * share:.1f} / {100 * width:.1f}"
                for share, width in cover(sizes, correlation, accuracy, intervals, runs)
            ]
            print(f"| {name} | {correlation} | {accuracy} |", " | ".join(cells), "|", flush=True)
    print("\nShare of intervals of other metrics that contain the truth, three classes\n")
    print("| test images | correlation |", " | ".join(METRICS), "|\n|---|---:|", "---:|" * len(METRICS))
    for (name, sizes), spread in itertools.product(SIZES.items(), SPREADS):
        if sizes.max() > 1 or not spread:
            shares = [f"{100 * share:.1f}" for share in cover_metrics(sizes, spread, runs)]
            print(f"| {name} | {spread**2 / (spread**2 + 1):.2f} |", " | ".join(shares), "|", flush=True)
    print("\nShare of p-values below 0.05 for two equally good models\n")
    print("| test images | correlation | McNemar | sign-flip test of groups |\n|---|---:|---:|---:|")
    for (name, sizes), correlation in itertools.product(SIZES.items(), CORRELATIONS):
        if sizes.max() > 1 or not correlation:
            shares = [f"{100 * share:.1f}" for share in false_differences(sizes, correlation, runs)]
            print(f"| {name} | {correlation} |", " | ".join(shares), "|", flush=True)


def draw(
    random: np.random.Generator, sizes: npt.NDArray[np.int64], correlation: float, accuracy: float
) -> npt.NDArray[np.bool_]:
    """Whether each image's prediction is right; the images of a group follow each other."""
    scale = 1 / correlation - 1 if correlation else 1e9
    of_group = random.beta(accuracy * scale, (1 - accuracy) * scale, len(sizes))
    return random.random(sizes.sum()) < np.repeat(of_group, sizes)


def cover(
    sizes: npt.NDArray[np.int64], correlation: float, accuracy: float, intervals: dict[str, Interval], runs: int
) -> list[tuple[float, float]]:
    """For each interval: the share that contains the accuracy, and the mean width."""
    random, groups = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    found = []
    for _ in range(runs):
        hits = draw(random, sizes, correlation, accuracy)
        limits = [interval(hits, groups) for interval in intervals.values()]
        found.append([(low <= accuracy <= high, high - low) for low, high in limits])
    return [(float(share), float(width)) for share, width in np.mean(np.array(found, float), axis=0)]


def cover_metrics(sizes: npt.NDArray[np.int64], spread: float, runs: int) -> list[float]:
    """For each of METRICS: the share of intervals that contain its value on 200,000 groups of one image."""
    random, groups = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)

    def measure_one(groups: npt.NDArray[np.int64]) -> dict[str, Any]:
        logits = random.normal(size=(len(groups), 3)) + spread * random.normal(size=(groups.max() + 1, 3))[groups]
        labels = random.integers(0, 3, len(groups))
        logits[np.arange(len(groups)), labels] += 2
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return measure(probabilities, labels, "abc", groups)

    truth = measure_one(np.arange(200_000))
    inside = np.zeros(len(METRICS))
    for _ in range(runs):
        found = measure_one(groups)
        limits = [found[f"{name}_ci95"] or (0, np.inf) for name in METRICS]
        inside += [low <= truth[name] <= high for name, (low, high) in zip(METRICS, limits, strict=True)]
    return (inside / runs).tolist()


def resample(hits: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64], method: str) -> tuple[float, float]:
    """SciPy's bootstrap of whole groups."""
    correct, sizes = np.bincount(groups, hits), np.bincount(groups)
    limits = bootstrap(
        (correct, sizes),
        lambda right, n, axis: right.sum(axis=axis) / n.sum(axis=axis),
        n_resamples=1000,
        paired=True,
        method=method,
        rng=np.random.default_rng(0),
    ).confidence_interval
    share = float(hits.mean())
    return (share, share) if np.isnan(limits.low) else (limits.low, limits.high)


def false_differences(sizes: npt.NDArray[np.int64], correlation: float, runs: int) -> tuple[float, float]:
    random, groups = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    found = []
    for _ in range(runs):
        first, second = (draw(random, sizes, correlation, 0.9) for _ in range(2))
        found.append([compare_paired(first, second, one)["p_value"] < 0.05 for one in (None, groups)])
    alone, grouped = np.mean(found, axis=0)
    return float(alone), float(grouped)


if __name__ == "__main__":
    main()
