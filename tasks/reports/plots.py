"""Tables for `dvc plots`, as CSV bytes. Class names in them pass `text.csv_cell`: no spreadsheet runs them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.reports.metrics import Integers
from tasks.reports.text import csv_cell


def confusion_csv(labels: Integers, predicted: Integers, classes: Sequence[str]) -> bytes:
    """`actual,predicted`, one row an image, in the given order."""
    names = [csv_cell(name) for name in classes]
    rows = zip(labels, predicted, strict=True)
    return _table(("actual", "predicted"), ((names[actual], names[answer]) for actual, answer in rows))


def per_class_csv(per_class: Mapping[str, Mapping[str, Any]]) -> bytes:
    """`class,precision,recall,f1,support`; what is undefined is empty."""
    columns = ("precision", "recall", "f1", "support")
    rows = ((csv_cell(name), *(figures[column] for column in columns)) for name, figures in per_class.items())
    return _table(("class", *columns), rows)


def calibration_csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """`confidence,accuracy,n`, one row a bin of `metrics.calibration`."""
    columns = ("confidence", "accuracy", "n")
    return _table(columns, ([row[column] for column in columns] for row in rows))


def _table(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()
