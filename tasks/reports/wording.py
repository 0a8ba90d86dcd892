"""Metrics in sentences: the field's terms, with an explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.reports.text import percent, visible

FEW_IMAGES = 300
SIGNIFICANT = 0.05
"""Below this p-value a difference is called clear."""


def title(classes: Sequence[str]) -> str:
    """`ants or bees?`, or how many classes there are if more than three."""
    if len(classes) > 3:
        return f"Which of {len(classes)} classes?"
    return f"{' or '.join(visible(name, 28) for name in classes)}?"


def interval(test: Mapping[str, Any]) -> str:
    low, high = test["accuracy_ci95"]
    return f"95 % confidence interval {percent(low)} to {percent(high)}"


def baseline_verdict(test: Mapping[str, Any]) -> str:
    """Whether the model beats the majority-class baseline, and how coarse the accuracy is."""
    baseline, (low, high) = test["majority_accuracy"], test["accuracy_ci95"]
    named = f"the majority-class baseline of {percent(baseline)}, which always predicts the most frequent class"
    if low > baseline:
        text = f"This accuracy is clearly above {named}."
    elif high < baseline:
        text = f"This accuracy is below {named}: something is wrong, do not use this model."
    else:
        text = f"This accuracy is not clearly above {named}."
    if test["n"] < FEW_IMAGES:
        points = 100 / test["n"]
        text += f" The test set is small: each of its {test['n']} images counts for {points:.1f} percentage points."
    return text


def calibration_verdict(test: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether the model is overconfident, underconfident or neither: on average over all images."""
    confidence = sum(row["n"] * row["confidence"] for row in rows) / test["n"]
    accuracy, (low, high) = test["accuracy"], test["accuracy_ci95"]
    if low <= confidence <= high:
        verdict = "on average, the model is well calibrated"
    elif confidence > accuracy:
        verdict = "the model is overconfident"
    else:
        verdict = "the model is underconfident"
    return f"The mean confidence is {percent(confidence)} and the accuracy {percent(accuracy)}: {verdict}."


def comparison_verdict(pair: Mapping[str, Any]) -> str:
    """The result of the paired test of the champion (first) and another strategy (second)."""
    if pair["first_only"] == pair["second_only"]:
        return "no difference"
    better = "the champion" if pair["first_only"] > pair["second_only"] else "the other"
    return f"{better} is better" if pair["p_value"] < SIGNIFICANT else "no clear difference"


def data_sentence(data: Mapping[str, Any]) -> str:
    """The number of images, their source, and what was left out."""
    numbers = (("quarantined", data["quarantined"]), ("excluded", sum(data["excluded"].values())))
    left_out = [f"{n} {'was' if n == 1 else 'were'} {kind}" for kind, n in numbers if n]
    origin = f" from {visible(data['source'], 120)}" if data["source"] else ""
    return f"{data['accepted']} images{origin} were accepted; {' and '.join(left_out) or 'none was left out'}."


def split_sentence(data: Mapping[str, Any]) -> str:
    """How the images were split, as far as the data summary says."""
    given, fractions = data.get("given_splits"), data.get("fractions") or {}
    drawn = [
        f"{percent(fractions[name], 0)} for {name}"
        for name in ("validation", "test")
        if name in fractions and name not in (given or ())
    ]
    parts = []
    if given:
        parts.append(f"The source itself assigns {' and '.join(visible(name, 20) for name in given)}.")
    if drawn:
        parts.append(f"A hash of each image's content draws {' and '.join(drawn)}.")
    parts.append("Images that look the same, or belong to one group, are always in the same split.")
    parts.append("The test images were not used for training or for any choice.")
    return " ".join(parts)


def facts(evaluation: Mapping[str, Any], champion: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values for the list at the page's end."""
    validation, test, training = (champion[name] for name in ("validation", "test", "training"))
    rows = [
        ("source", evaluation["data"]["source"] or "not recorded"),
        ("strategy", evaluation["champion"]),
        ("recipe", champion["recipe"]),
        ("validation accuracy", f"{percent(validation['accuracy'])} of {validation['n']} images"),
        ("test log loss", f"{test['log_loss']:.4f}"),
        ("test macro F1", percent(test["macro_f1"])),
    ]
    refitted = training.get("refitted_with_validation")
    if refitted is not None:
        rows.append(("refitted on train + validation", "yes" if refitted else "no"))
    for prefix, block in (("chosen", training.get("chosen")), ("backbone", champion["backbone"])):
        rows += [(f"{prefix}: {str(key).replace('_', ' ')}", _plain(value)) for key, value in (block or {}).items()]
    return rows


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
