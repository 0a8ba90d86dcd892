"""The report page: one self-contained HTML file with no script, made from `reports/evaluation.json` and some images.

Everything that came from data passes Jinja's autoescape and `text.visible`. No times and no dates, so the same input
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.reports import charts, html, wording
from tasks.reports.metrics import CALIBRATION_BINS, confused_pairs
from tasks.reports.text import visible

TABLE_MATRIX_CLASSES = 20
"""Up to so many classes the confusion matrix is a table with numbers; beyond, an image in colours."""
LISTED_QUARANTINED = 100
"""So many quarantined images are listed; all are in quarantine.parquet."""
LISTED_PAIRS = 10
HEAT_LIMIT = 0.72
"""Deepest cell: text on it keeps a contrast of 4.5 or more in both colour schemes."""


def render_page(evaluation: Mapping[str, Any], images: Sequence[npt.NDArray[np.uint8]]) -> str:
    """Write the report.

    Args:
        evaluation: what `reports/evaluation.json` holds (see `tasks.evaluate`).
        images: one (height, width, 3) uint8 RGB image for each of `evaluation["mistakes"]`, in that order.

    Returns:
        HTML, UTF-8 safe.
    """
    champion = evaluation["strategies"][evaluation["champion"]]
    return html.render(
        "page.html.jinja",
        evaluation=evaluation,
        classes=evaluation["classes"],
        test=champion["test"],
        page=_view(evaluation, champion, images),
    )


def _view(evaluation: Mapping[str, Any], champion: Mapping[str, Any], images: Sequence[Any]) -> dict[str, Any]:
    classes, test, data = evaluation["classes"], champion["test"], evaluation["data"]
    quarantined = data["quarantine"]
    return {
        "title": wording.title(classes),
        "named": classes if len(classes) <= 3 else (),
        "commonest": wording.commonest(test),
        "verdict": wording.verdict(test),
        "scale": charts.answer_scale(test["accuracy"], test["accuracy_ci95"], test["majority_accuracy"]),
        "mistakes": [
            {**mistake, "image": html.data_uri(image)}
            for mistake, image in zip(evaluation["mistakes"], images, strict=True)
        ],
        "weakest_first": len(classes) > 12,
        "per_class": _ordered(test["per_class"]),
        "undefined": any(None in figures.values() for figures in test["per_class"].values()),
        "heat_map": charts.heat_map(test["confusion"], classes) if len(classes) > TABLE_MATRIX_CLASSES else None,
        "turned": len(classes) > 4 and max(len(visible(name)) for name in classes) > 3,
        "matrix": _matrix_rows(test["confusion"], classes),
        "pairs": confused_pairs(test["confusion"], classes)[:LISTED_PAIRS],
        "reliability": charts.reliability_diagram(evaluation["calibration"]),
        "calibration_verdict": wording.calibration_verdict(test, evaluation["calibration"]),
        "calibration_bins": CALIBRATION_BINS,
        "trust": _distinct(evaluation["trust"]),
        "strategies": list(evaluation["strategies"].items()),
        "comparisons": [{**pair, "verdict": wording.comparison_verdict(pair)} for pair in evaluation["comparisons"]],
        "data_sentence": wording.data_sentence(data),
        "split_sentence": wording.split_sentence(data),
        "counts": [{"label": label, **splits} for label, splits in data["counts"].items()],
        "refused": _refused(data),
        "quarantined": quarantined,
        "more_quarantined": data["quarantined"] - len(quarantined),
        "recipe_sentence": wording.recipe_sentence(evaluation["champion"], champion["recipe"], champion["training"]),
        "training": _training_charts(champion["training"]),
        "facts": wording.facts(evaluation, champion),
    }


def _ordered(per_class: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    rows = list(per_class.items())
    if len(rows) <= 12:
        return rows
    return sorted(rows, key=lambda row: (row[1]["f1"] is None, row[1]["f1"]))


def _distinct(trust: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without the levels that let through no fewer answers than the level before: with two classes, 50 % is none."""
    return [row for number, row in enumerate(trust) if not number or row["n"] != trust[number - 1]["n"]]


def _matrix_rows(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> list[dict[str, Any]]:
    if len(classes) > TABLE_MATRIX_CLASSES:
        return []
    rows = []
    for number, (label, counts) in enumerate(zip(classes, confusion, strict=True)):
        support = max(1, sum(counts))
        cells = [
            {"n": n, "kind": "hit" if column == number else "miss", "heat": f"{0.12 + 0.6 * n / support:.2f}"}
            for column, n in enumerate(counts)
        ]
        rows.append({"label": label, "cells": cells})
    return rows


def _refused(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    kinds = (("quarantined", data["quarantined_by_code"]), ("excluded", data["excluded"]))
    return [
        {"reason": reason, "kind": kind, "n": n}
        for kind, reasons in kinds
        for reason, n in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    ]


def _training_charts(training: Mapping[str, Any]) -> list[dict[str, Any]]:
    history, candidates = training.get("history"), training.get("candidates")
    if history:
        return _history_charts(history)
    return _candidate_charts(candidates, training.get("chosen"), training["chosen_on"]) if candidates else []


def _history_charts(history: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    drawn = []
    for key, y_label, caption in (
        ("loss", "loss", "Loss after each epoch: how far the answers are from the truth; lower is better."),
        ("accuracy", "share right", "Share of right answers after each epoch."),
    ):
        lines = [
            _finite_series(name, range(1, len(history[column]) + 1), history[column])
            for name, column in (("train", key), ("validation", f"val_{key}"))
            if history.get(column)
        ]
        drawing = charts.line_chart(lines, "epoch", y_label)
        if drawing:
            drawn.append({"drawing": drawing, "names": [line.name for line in lines], "caption": caption})
    return drawn


def _candidate_charts(
    candidates: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any] | None, chosen_on: str
) -> list[dict[str, Any]]:
    strengths = [one["inverse_regularization"] for one in candidates]
    picked = (chosen or {}).get("inverse_regularization")
    drawn = []
    for column, y_label, caption in (
        ("log_loss", "log loss", f"Log loss on {chosen_on} at each candidate strength; lower is better."),
        ("accuracy", "share right", f"Share of right answers on {chosen_on} at each candidate strength."),
    ):
        values = [one.get(column) for one in candidates]
        line = _finite_series("held out", strengths, values)
        drawing = charts.line_chart([line], "inverse regularisation", y_label, log_x=True, marked_x=picked)
        if drawing:
            told = f"{caption} The dashed line is the one that was chosen." if picked is not None else caption
            drawn.append({"drawing": drawing, "names": [line.name], "caption": told})
    return drawn


def _finite_series(name: str, xs: Sequence[float], ys: Sequence[float | None]) -> charts.Series:
    points = [(float(x), float(y)) for x, y in zip(xs, ys, strict=True) if y is not None and np.isfinite(y)]
    return charts.Series(name, tuple(x for x, _ in points), tuple(y for _, y in points))
