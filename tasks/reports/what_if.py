"""What if images get worse: the accuracy on darker, blurred, noisy, compressed, rotated and cropped copies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.images.corruptions import corrupt
from tasks.reports import charts
from tasks.reports.data_uris import thumbnail
from tasks.reports.influences import Booleans
from tasks.reports.text import percent
from tasks.reports.uncertainty import accuracy_interval, compare_paired
from tasks.scores import Integers

STRENGTHS = {1: "slight", 2: "medium", 3: "strong"}
_SURE = 0.05
_SIDE_PX = 112


def measure_what_if(
    clean: Booleans, worse: Mapping[str, Mapping[int, Booleans]], groups: Integers, passes: int
) -> dict[str, Any]:
    """The accuracies on images and on their worse copies.

    Args:
        clean: (n,) whether the prediction is right for each image.
        worse: kind of copies -> strength -> (n,) the same for their copies.
        groups: (n,) numbers of the images' groups.
        passes: how many images went through the network.

    Returns:
        n, passes, clean and kinds: for each strength its accuracy, 95 % confidence interval, and the p-value of the
        difference from the images themselves, times the number of comparisons (Bonferroni).
    """
    comparisons = sum(map(len, worse.values()))
    kinds = []
    for kind, copies in worse.items():
        rows = []
        for strength, hits in copies.items():
            chance = compare_paired(clean, hits, groups)["p_value"]
            rows.append({"strength": strength, **_accuracy(hits, groups), "p_value": min(1.0, chance * comparisons)})
        kinds.append({"kind": kind, "strengths": rows})
    return {"n": len(clean), "passes": passes, "clean": _accuracy(clean, groups), "kinds": kinds}


def what_if_verdict(found: Mapping[str, Any]) -> str:
    """Which worse images harm the accuracy, and what to do about it."""
    before = found["clean"]["accuracy"]
    losses = [
        (row["strength"], row["accuracy"], one["kind"])
        for one in found["kinds"]
        for row in one["strengths"]
        if row["accuracy"] < before and row["p_value"] < _SURE
    ]
    if not losses:
        return (
            f"No kind of worse images lowers the accuracy beyond chance, as far as {found['n']} images can tell: it is "
            f"{percent(before)} on the images themselves."
        )
    strength, accuracy, kind = min(losses)  # the first strength that harms, and what harms most at it
    harmful = {kind for _, _, kind in losses}
    unharmed = [one["kind"] for one in found["kinds"] if one["kind"] not in harmful]
    safe = f" No clear loss even at full strength: {', '.join(unharmed)}." if unharmed else ""
    return (
        f"The model is most sensitive to {kind} images: at {STRENGTHS[strength]} strength its accuracy falls from "
        f"{percent(before)} to {percent(accuracy)}.{safe} If such images come in practice, add some to train."
    )


def show_what_if(found: Mapping[str, Any], sample: npt.NDArray[np.uint8]) -> list[dict[str, Any]]:
    """For each kind its chart, and what it does to a sample image at each strength."""
    return [
        {
            "kind": one["kind"],
            "chart": charts.steps_chart(
                one["kind"],
                [("none", found["clean"]), *((STRENGTHS[row["strength"]], row) for row in one["strengths"])],
            ),
            "copies": [
                {
                    "strength": STRENGTHS[row["strength"]],
                    "image": thumbnail(corrupt(sample, one["kind"], row["strength"], found["sample"]), _SIDE_PX),
                }
                for row in one["strengths"]
            ],
        }
        for one in found["kinds"]
    ]


def _accuracy(hits: Booleans, groups: Integers) -> dict[str, Any]:
    return {"accuracy": float(hits.mean()), "accuracy_ci95": list(accuracy_interval(hits, groups))}
