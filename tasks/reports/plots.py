"""Tables for `dvc plots`, as CSV. Class names in them pass `text.csv_cell`, so no spreadsheet runs them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.files import atomic_folder
from tasks.reports.text import csv_cell
from tasks.scores import Integers


def write_plots(
    folder: Path,
    labels: Integers,
    predicted: Integers,
    per_class: Mapping[str, Mapping[str, Any]],
    calibration: Iterable[Mapping[str, Any]],
    answers: Iterable[Mapping[str, Any]],
) -> None:
    """Write all files of the folder again.

    `confusion.csv` has one row for each test image, in the given order; `per_class.csv` one for each class, with empty
    cells for undefined metrics; `calibration.csv` one for each bin of `metrics.calibration`; `answers.csv` one for each
    point of `answers.precision_curve`.
    """
    names = [csv_cell(name) for name in per_class]
    pairs = ((names[actual], names[other]) for actual, other in zip(labels, predicted, strict=True))
    scores, bins = ("precision", "recall", "f1", "support"), ("confidence", "accuracy", "n")
    points = ("answered", "precision", "threshold", "n")
    classes = ((name, *map(one.get, scores)) for name, one in zip(names, per_class.values(), strict=True))
    with atomic_folder(folder) as new:
        _write(new / "confusion.csv", ("actual", "predicted"), pairs)
        _write(new / "per_class.csv", ("class", *scores), classes)
        _write(new / "calibration.csv", bins, (map(row.get, bins) for row in calibration))
        _write(new / "answers.csv", points, (map(row.get, points) for row in answers))


def _write(path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
