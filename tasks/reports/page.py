"""The report page: one self-contained HTML file with no script, made from `reports/evaluation.json` and some images.

Everything that came from data passes Jinja's autoescape and `text.visible`. The page has no times and no dates, so the
same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks.reports import advice, charts, comparison_wording, foreign, html, weak, what_if, why, wording
from tasks.reports.chart_frame import Series
from tasks.reports.confusion import draw_confusion
from tasks.reports.metrics import CALIBRATION_BINS, confused_pairs
from tasks.reports.why import Images

LISTED_PAIRS = 10
UNSORTED_CLASSES = 12
"""Up to this many classes keep their order; if there are more, the weakest class comes first."""


def render_page(evaluation: Mapping[str, Any], images: Images) -> str:
    """Write the report.

    Args:
        evaluation: what `reports/evaluation.json` holds (see `tasks.evaluate`).
        images: key -> (224, 224, 3) uint8 RGB, for those of `shown_images`.

    Returns:
        HTML, UTF-8 safe.
    """
    champion = evaluation["strategies"][evaluation["champion"]]
    return html.render(
        "page.html.jinja",
        evaluation=evaluation,
        **{name: evaluation[name] for name in ("classes", "strategies", "data")},
        champion=champion,
        test=champion["test"],
        page=_view(evaluation, champion, images),
    )


def shown_images(evaluation: Mapping[str, Any]) -> list[str]:
    """The keys of all images that the page shows, each once."""
    of_slices = [key for one in evaluation["weak"]["slices"] for key in one["keys"]]
    sample = [evaluation["what_if"]["sample"]] if evaluation["what_if"] else []
    mistakes = [mistake["key"] for mistake in evaluation["mistakes"]]
    most = [one["key"] for one in evaluation["foreign"]["most"]] if evaluation["foreign"] else []
    return list(dict.fromkeys([*mistakes, *why.shown_images(evaluation["why"]), *of_slices, *sample, *most]))


def _view(evaluation: Mapping[str, Any], champion: Mapping[str, Any], images: Images) -> dict[str, Any]:
    classes, test, data = evaluation["classes"], champion["test"], evaluation["data"]
    per_class = test["per_class"]
    return {
        "title": wording.title(classes),
        "summary": advice.summarise(evaluation),
        "few": advice.FEW,
        "majority_class": max(per_class, key=lambda name: per_class[name]["support"]),
        "baseline_verdict": wording.baseline_verdict(test),
        "interval_method": wording.interval_method(test),
        "scale": charts.accuracy_scale(test["accuracy"], test["accuracy_ci95"], test["majority_accuracy"]),
        "mistakes": why.show_mistakes(evaluation["mistakes"], evaluation["why"], images),
        "right_answers": why.show_right_answers(evaluation["why"], images),
        "weak_verdict": weak.weak_verdict(evaluation["weak"]),
        "weak_slices": weak.show_slices(evaluation["weak"], images),
        **_what_if(evaluation["what_if"], images),
        **_foreign(evaluation["foreign"], images),
        "weakest_first": len(classes) > UNSORTED_CLASSES,
        "per_class": _ordered(per_class),
        "untested": [name for name in classes if not per_class[name]["support"]],
        "undefined": any(None in metrics.values() for metrics in per_class.values()),
        "confusion": draw_confusion(test["confusion"], classes),
        "pairs": confused_pairs(test["confusion"], classes)[:LISTED_PAIRS],
        "reliability": charts.reliability_diagram(evaluation["calibration"]),
        "calibration_verdict": wording.calibration_verdict(test, evaluation["calibration"]),
        "recalibration_verdict": wording.recalibration_verdict(evaluation["recalibration"]),
        "calibration_bins": CALIBRATION_BINS,
        "answers_verdict": wording.answers_verdict(evaluation["answers"]),
        **_answers_chart(evaluation["answers"]),
        "comparisons": [
            {**pair, "verdict": comparison_wording.comparison_verdict(pair)} for pair in evaluation["comparisons"]
        ],
        "left_out": comparison_wording.told_left_out(evaluation),
        "recommendation": comparison_wording.recommendation(evaluation),
        "certainty": comparison_wording.certainty_sentence(evaluation["champion"], evaluation["choice"]),
        "costs_chart": _costs_chart(evaluation),
        "refit_sentence": comparison_wording.refit_sentence(evaluation["strategies"], evaluation["choice"]),
        "data_sentence": wording.data_sentence(data),
        "split_sentence": wording.split_sentence(data),
        "training": _training_charts(champion["training"]),
        "facts": wording.facts(evaluation, champion),
    }


def _what_if(found: Mapping[str, Any] | None, images: Images) -> dict[str, Any]:
    if not found:
        return {}
    shown = what_if.show_what_if(found, images[found["sample"]])
    return {"what_if": shown, "what_if_verdict": what_if.what_if_verdict(found)}


def _foreign(found: Mapping[str, Any] | None, images: Images) -> dict[str, Any]:
    if not found:
        return {}
    return {
        "foreign_words": foreign.WORDS,
        "foreign_verdict": foreign.foreign_verdict(found),
        "foreign_most": foreign.show_most(found, images),
    }


def _ordered(per_class: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    rows = list(per_class.items())
    if len(rows) <= UNSORTED_CLASSES:
        return rows
    return sorted(rows, key=lambda row: (row[1]["f1"] is None, row[1]["f1"]))


def _answers_chart(answers: Mapping[str, Any]) -> dict[str, Any]:
    """The chart; a promise for all classes together is marked."""
    of_all = [one for one in answers["promises"] if one["class"] is None and one["threshold"] is not None]
    promised = of_all[0]["test_answered"] if of_all else None
    drawn = charts.answers_chart(answers["curve"], promised, answers["wanted_precision"])
    return {"answers_chart": drawn, "marks_promise": promised is not None}


def _costs_chart(evaluation: Mapping[str, Any]) -> Any:
    """Accuracy against cost; empty if the cost of a model isn't known."""
    choices = [
        charts.Choice(
            name, one["test"]["accuracy"], tuple(one["test"]["accuracy_ci95"]),
            one["training"].get("network_passes", 0), name == evaluation["champion"],
        )
        for name, one in evaluation["strategies"].items()
        if not one["problem"]
    ]  # fmt: skip
    return charts.cost_chart(choices, "images through VGG16 (log scale)") if all(one.cost for one in choices) else ""


def _training_charts(training: Mapping[str, Any]) -> list[dict[str, Any]]:
    history, candidates = training.get("history"), training.get("candidates")
    if history:
        return _history_charts(history)
    return _candidate_charts(candidates, training.get("chosen"), training["chosen_on"]) if candidates else []


def _history_charts(history: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    drawn = []
    for key, better in (("loss", "; lower is better"), ("accuracy", "")):
        lines = [
            _finite_series(name, range(1, len(history[column]) + 1), history[column])
            for name, column in (("train", key), ("validation", f"val_{key}"))
            if history.get(column)
        ]
        drawing = charts.line_chart(lines, "epoch", key)
        if drawing:
            caption = f"{key.capitalize()} after each epoch{better}."
            drawn.append({"drawing": drawing, "names": [line.name for line in lines], "caption": caption})
    return drawn


def _candidate_charts(
    candidates: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any] | None, chosen_on: str
) -> list[dict[str, Any]]:
    xs = [one["inverse_regularization"] for one in candidates]
    picked = (chosen or {}).get("inverse_regularization")
    drawn = []
    for column, y_label in (("log_loss", "log loss"), ("accuracy", "accuracy")):
        line = _finite_series("held out", xs, [one.get(column) for one in candidates])
        drawing = charts.line_chart([line], "inverse regularization C", y_label, log_x=True, marked_x=picked)
        if drawing:
            better = "; lower is better" if column == "log_loss" else ""
            marked = " The dashed line marks the chosen C." if picked is not None else ""
            caption = f"{y_label.capitalize()} on {chosen_on} for each candidate C{better}.{marked}"
            drawn.append({"drawing": drawing, "names": [line.name], "caption": caption})
    return drawn


def _finite_series(name: str, xs: Sequence[float], ys: Sequence[float | None]) -> Series:
    points = [(float(x), float(y)) for x, y in zip(xs, ys, strict=True) if y is not None and np.isfinite(y)]
    return Series(name, tuple(x for x, _ in points), tuple(y for _, y in points))
