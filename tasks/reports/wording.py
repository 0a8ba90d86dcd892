"""Metrics in sentences: the field's terms, with an explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.reports.text import percent, visible

LISTED_CLASSES = 5
FEW_GROUPS = 10
FEW_IMAGES = 300
SMALL_GAP = 0.05
"""A model is called well calibrated if the gap between confidence and accuracy is certainly not larger."""


def title(classes: Sequence[str]) -> str:
    """`ants or bees?`, or how many classes there are if more than three."""
    if len(classes) > 3:
        return f"Which of {len(classes)} classes?"
    return f"{' or '.join(visible(name, 28) for name in classes)}?"


def interval(test: Mapping[str, Any]) -> str:
    low, high = test["accuracy_ci95"]
    return f"95 % confidence interval {percent(low)} to {percent(high)}"


def interval_method(test: Mapping[str, Any]) -> str:
    return "Wilson" if test["n_groups"] == test["n"] else "Wilson, for the effective number of independent images"


def baseline_verdict(test: Mapping[str, Any]) -> str:
    """Whether the model beats the majority-class baseline, and what the test images are too few to tell."""
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
    return f"{text} {groups_sentence(test)}".rstrip()


def groups_sentence(test: Mapping[str, Any]) -> str:
    """Which images are not independent, and whether their groups are too few; empty if all are independent."""
    if test["n_groups"] == test["n"]:
        return ""
    groups = f"{test['n_groups']:,} {'group' if test['n_groups'] == 1 else 'groups'}"
    text = (
        f"The {test['n']:,} test images belong to {groups}; images of one group (a patient, a video, near duplicates) "
        "are alike, so the confidence interval is wider than for as many independent images."
    )
    if test["effective_groups"] < FEW_GROUPS:
        text += (
            f" They tell as much as {test['effective_groups']:.0f} groups of equal size: little about the accuracy on "
            "images of other groups."
        )
    return text


def calibration_verdict(test: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether the model is overconfident, underconfident or neither: on average over all images."""
    confidence, low, high = _gap(test, rows)
    state = calibration_state(test, rows)
    if state == "overconfident":
        verdict = f"the model is overconfident: its confidence is {_points(low, high)} too high"
    elif state == "underconfident":
        verdict = f"the model is underconfident: its confidence is {_points(-high, -low)} too low"
    elif state == "calibrated":
        most = _points(max(-low, high))
        verdict = f"the model is well calibrated: on average, confidence and accuracy differ by at most {most}"
    else:
        alone = test["n_groups"] == test["n"]
        images = f"{test['n']:,} images" if alone else f"{test['n']:,} images of {test['n_groups']:,} groups"
        verdict = (
            f"the confidence may be up to {_points(high)} too high or up to {_points(-low)} too low, and {images} are "
            "too few to tell whether the model is well calibrated"
        )
    return (
        f"The mean confidence is {percent(confidence)} and the accuracy {percent(test['accuracy'])} "
        f"({interval(test)}): {verdict}."
    )


def calibration_state(test: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """`overconfident`, `underconfident`, `calibrated`, or `unknown` if the images are too few to tell."""
    _, low, high = _gap(test, rows)
    if low > 0 or high < 0:
        return "overconfident" if low > 0 else "underconfident"
    return "calibrated" if max(-low, high) <= SMALL_GAP else "unknown"


def _gap(test: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """The mean confidence, and the ends of the interval of how much it is too high."""
    confidence = sum(row["n"] * row["confidence"] for row in rows) / test["n"]
    low, high = test["accuracy_ci95"]
    return confidence, confidence - high, confidence - low


def recalibration_verdict(about: Mapping[str, Any] | None) -> str:
    """How the probabilities were corrected, and what that did; empty if it wasn't tried."""
    if about is None:
        return ""
    if about["method"] == "none":
        return f"No correction of the probabilities had a lower log loss on {about['examples']:,} held-out images."
    before, after = about["test"]["before"], about["test"]["after"]
    shifts = " and a shift for each class" if about["method"] == "temperature_and_bias" else ""
    too = "too high" if about["temperature"] > 1 else "too low"
    return (
        f"The confidence was {too} on {about['examples']:,} held-out images, so it is corrected: by the temperature "
        f"{about['temperature']:.2f}{shifts}. On the test images, this changes the log loss from "
        f"{before['log_loss']:.3f} to {after['log_loss']:.3f}, and the expected calibration error from "
        f"{percent(before['expected_calibration_error'])} to {percent(after['expected_calibration_error'])}."
    )


def wanted_share(wanted: float) -> str:
    """A wanted precision with as many digits as it needs: 95 %, 99.5 %."""
    return percent(wanted, 0 if round(100 * wanted, 6).is_integer() else 1)


def answers_verdict(answers: Mapping[str, Any]) -> str:
    """Which precision of the answers is promised, and what that costs."""
    wanted, promises = answers["wanted_precision"], answers["promises"]
    if wanted is None:
        return (
            "Every image gets an answer. With evaluate.wanted_precision=0.95, say, images below a threshold are called "
            "unsure, so that 95 % of the other answers are right."
        )
    share = wanted_share(wanted)
    rule = (
        f"Of the answers, {share} must be right (evaluate.wanted_precision), also on new images of the same kind; "
        "other images are called unsure."
    )
    kept = [promise for promise in promises if promise["threshold"] is not None]
    if len(promises) == 1 and not kept:
        return f"{rule} With these images no threshold can promise that, so every image is called unsure."
    rule = (
        f"{rule} The threshold was found on held-out train and validation images; it keeps the promise with 95 % "
        "confidence."
    )
    if len(promises) > 1:
        return f"{rule} It is kept for {len(kept)} of {len(promises)} classes; all images of the others are unsure."
    if not kept[0]["threshold"]:
        return f"{rule} Every image gets an answer."
    return f"{rule} {percent(kept[0]['test_answered'])} of the test images get an answer."


def _points(*shares: float) -> str:
    return f"{' to '.join(f'{100 * share:.1f}' for share in shares)} percentage points"


def data_sentence(data: Mapping[str, Any]) -> str:
    """The number of images, their source, what was left out, and which classes lack held-out images."""
    numbers = (("quarantined", data["quarantined"]), ("excluded", sum(data["excluded"].values())))
    left_out = [f"{n} {'was' if n == 1 else 'were'} {kind}" for kind, n in numbers if n]
    origin = f" from {visible(data['source'], 120)}" if data["source"] else ""
    told = f"{data['accepted']} images{origin} were accepted; {' and '.join(left_out) or 'none was left out'}."
    return " ".join([told, *_classes_without_images(data["classes"])])


def _classes_without_images(classes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A sentence for each held-out split that lacks a class."""
    sentences = []
    for split, consequence in (("test", "no metric covers"), ("validation", "no choice considers")):
        missing = [visible(name, 40) for name, counts in classes.items() if not counts[split]]
        if missing:
            named = ", ".join(missing[:LISTED_CLASSES]) + (", ..." if len(missing) > LISTED_CLASSES else "")
            has = "has" if len(missing) == 1 else "have"
            sentences.append(
                f"{len(missing)} of {len(classes)} classes {has} no {split} image ({named}): {consequence} such images."
            )
    return sentences


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
        parts.append(
            f"A hash of each image's content draws {' and '.join(drawn)}, and an image of every class if it has enough."
        )
    parts += [
        "Images of one group, and near duplicates, are in the same split, unless the data report says otherwise.",
        "The test images were not used for training or for any choice.",
    ]
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
