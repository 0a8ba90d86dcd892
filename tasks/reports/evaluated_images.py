"""What a report says about the images: where they come from, and which ones are predicted wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.files import read_json
from tasks.images.manifest import Example, read_quarantine
from tasks.reports.metrics import rounded
from tasks.reports.text import describe_source
from tasks.scores import Floats, Integers, predict

LISTED_QUARANTINED = 100
"""Most quarantined images that are listed; all are in quarantine.parquet."""


def summarise_images(prepared: Path) -> dict[str, Any]:
    """The data summary, with the first quarantined images."""
    summary = read_json(prepared / "summary.json")
    quarantine = [asdict(row) for row in read_quarantine(prepared)[:LISTED_QUARANTINED]]
    return {**summary, **describe_source(summary), "quarantine": quarantine}


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
