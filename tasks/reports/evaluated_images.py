"""What the evaluation tells of the images themselves: where they come from, and which ones the model gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.files import read_json
from tasks.images.manifest import SPLITS, Example, read_quarantine
from tasks.reports.metrics import Floats, Integers, predict, rounded
from tasks.reports.text import without_credentials

LISTED_QUARANTINED = 100
"""So many quarantined images are listed; all are in quarantine.parquet."""


def summarise_images(prepared: Path, examples: Sequence[Example]) -> dict[str, Any]:
    """The data summary, the counts by class and split, and the quarantine."""
    summary = read_json(prepared / "summary.json")
    counts: dict[str, dict[str, int]] = {}
    for example in sorted(examples, key=lambda one: one.label):
        counts.setdefault(example.label, dict.fromkeys(SPLITS, 0))[example.split] += 1
    about = dict(summary["source"])
    source = about.pop("uri", None)
    return {
        **summary,
        "source": without_credentials(source) if source else None,
        "about": about,
        "counts": counts,
        "quarantine": [asdict(row) for row in read_quarantine(prepared)[:LISTED_QUARANTINED]],
    }


def worst_mistakes(
    probabilities: Floats, labels: Integers, classes: Sequence[str], examples: Sequence[Example]
) -> list[dict[str, Any]]:
    """Wrong predictions, the most confident first.

    Args:
        probabilities: (n, c).
        labels: (n,) indices of the actual classes.
        classes: c names.
        examples: n, in the same order.
    """
    rows = [
        {
            "key": example.key,
            "path": example.path,
            "actual": example.label,
            "predicted": classes[predicted],
            "probability": rounded(float(row[predicted])),
            "probability_actual": rounded(float(row[label])),
        }
        for example, row, predicted, label in zip(examples, probabilities, predict(probabilities), labels, strict=True)
        if predicted != label
    ]
    return sorted(rows, key=lambda row: (-row["probability"], row["key"]))
