"""The summary of an evaluation for people in a hurry: what they have, how sure it is, and what to do next.

Each line rests on figures of the evaluation, and names the section of the page that shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.reports import comparison_wording, foreign, why, wording
from tasks.reports.metrics import confused_pairs
from tasks.reports.text import percent, visible

FEW = 10
"""Below this number of test images, the figures of a class say little."""
MOST_STEPS = 6
_LISTED = 3
_CONFIDENCE = {
    "overconfident": "Its confidence is too high: it is right less often than it says.",
    "underconfident": "Its confidence is too low: it is right more often than it says.",
    "calibrated": "Its confidence can be believed: of answers with 90 %, about 90 % are right.",
    "unknown": "These test images are too few to tell whether its confidence can be believed.",
}


@dataclass(frozen=True)
class Line:
    """A sentence in plain text, a command that belongs to it, and the section that shows more (both may be empty)."""

    text: str
    section: str = ""
    command: str = ""


def summarise(evaluation: Mapping[str, Any]) -> dict[str, list[Line]]:
    """Heading -> lines, the most important first.

    Args:
        evaluation: what `reports/evaluation.json` holds (see `tasks.evaluate`).
    """
    return {
        "What you have": _have(evaluation),
        "How sure it is": _sure(evaluation),
        "What to do next": _next(evaluation)[:MOST_STEPS],
    }


def _have(evaluation: Mapping[str, Any]) -> list[Line]:
    champion, name = _champion(evaluation), evaluation["champion"]
    number = len(evaluation["strategies"])
    splits = ["train", "validation"] if champion["training"].get("refitted_with_validation") else ["train"]
    learned = sum(counts[split] for counts in evaluation["data"]["classes"].values() for split in splits)
    which = f"The champion of {number} strategies is {name}" if number > 1 else f"The model was made by {name}"
    lines = [
        Line(wording.data_sentence(evaluation["data"]), "data"),
        Line(f"{which}; it learned from {learned:,} images.", "strategies" if number > 1 else "training"),
    ]
    rows = {label: one for label, one in champion["test"]["per_class"].items() if one["support"] >= FEW}
    if len(rows) > 1:
        label = min(rows, key=lambda one: rows[one]["recall"])
        weakest = rows[label]
        told = f"It finds {percent(weakest['recall'])} of {_quoted(label)}, the least of all classes"
        lines.append(Line(f"{told} ({_interval(weakest['recall_ci95'])}).", "classes"))
    return lines


def _sure(evaluation: Mapping[str, Any]) -> list[Line]:
    test = _champion(evaluation)["test"]
    classes = test["per_class"]
    scarce = [label for label, one in classes.items() if one["support"] < FEW]
    lines = [
        Line(_against_baseline(test), ""),
        Line(_answers(evaluation["answers"]), "confidence"),
        Line(_CONFIDENCE[wording.calibration_state(test, evaluation["calibration"])], "confidence"),
    ]
    if evaluation["foreign"]:
        lines.append(Line(foreign.foreign_summary(evaluation["foreign"]), "foreign"))
    if scarce:
        has = "has" if len(scarce) == 1 else "have"
        text = f"{len(scarce)} of {len(classes)} classes {has} fewer than {FEW} test images: their figures say little."
        lines.append(Line(text, "classes"))
    return lines


def _against_baseline(test: Mapping[str, Any]) -> str:
    label = max(test["per_class"], key=lambda name: test["per_class"][name]["support"])
    always = f"always answering {_quoted(label)}, which is right for {percent(test['majority_accuracy'])}"
    low, high = test["accuracy_ci95"]
    if low > test["majority_accuracy"]:
        return f"It is clearly better than {always}."
    return f"It is {'worse' if high < test['majority_accuracy'] else 'not clearly better'} than {always}."


def _answers(answers: Mapping[str, Any]) -> str:
    if answers["wanted_precision"] is None:
        return "Every image gets an answer, however unsure it is."
    wanted, promises = wording.wanted_share(answers["wanted_precision"]), answers["promises"]
    kept = [one for one in promises if one["threshold"] is not None]
    promise = f"It promises that {wanted} of its answers on new images are right"
    if answers["each_class"]:
        return f"{promise}, for {len(kept)} of {len(promises)} classes."
    if not kept:
        return f"It can't promise that {wanted} of its answers are right."
    if not kept[0]["threshold"]:
        return f"{promise}, and every image gets one."
    return (
        f"{promise}, if it answers only from a confidence of {percent(kept[0]['threshold'])}: "
        f"{percent(kept[0]['test_answered'])} of the test images get an answer."
    )


def _next(evaluation: Mapping[str, Any]) -> list[Line]:
    test = _champion(evaluation)["test"]
    lines: list[Line] = []
    if test["accuracy_ci95"][0] <= test["majority_accuracy"]:
        text = "Don't use this model yet: check the labels in the data report, and add images."
        lines.append(Line(text, "data"))
    lines += _suspicious_labels(evaluation)
    lines += _more_images(test["per_class"])
    lines += _promise(evaluation["answers"])
    for one in evaluation["weak"]["slices"][:2]:
        text = f"Add images like these: {visible(one['words'], 80)}; {one['wrong']} of {one['n']} are wrong."
        lines.append(Line(text, "weak"))
    lines += _confused(test, evaluation["classes"])
    return [*lines, *_trials(evaluation)]


def _suspicious_labels(evaluation: Mapping[str, Any]) -> list[Line]:
    number = sum(why.suspicions(evaluation["mistakes"], evaluation["why"]))
    if not number:
        return []
    one = number == 1
    those = "a mistake whose label may be wrong" if one else f"{number} mistakes whose labels may be wrong"
    it = "it" if one else "each"
    return [Line(f"Look at {those}: those most like {it} all have the predicted label.", "mistakes")]


def _more_images(per_class: Mapping[str, Mapping[str, Any]]) -> list[Line]:
    scarce = sorted((one["support"], label) for label, one in per_class.items() if one["support"] < FEW)
    if not scarce:
        return []
    named = ", ".join(f"{_quoted(label)} ({support})" for support, label in scarce[:_LISTED])
    more = f" and {len(scarce) - _LISTED} more classes" if len(scarce) > _LISTED else ""
    return [Line(f"Add images of {named}{more}, in brackets the number of test images.", "classes")]


def _promise(answers: Mapping[str, Any]) -> list[Line]:
    broken = [promise for promise in answers["promises"] if promise["threshold"] is None]
    if answers["wanted_precision"] is None:
        return [Line("Let unsure images go to a person: set evaluate.wanted_precision, to 0.95 say.", "confidence")]
    if not broken:
        return []
    wanted = wording.wanted_share(answers["wanted_precision"])
    needed = [promise for promise in broken if promise["images_needed"]]
    if not needed:
        text = f"Improve the model or lower evaluate.wanted_precision: more images like these can't promise {wanted}."
        return [Line(text, "confidence")]
    first = max(needed, key=lambda promise: promise["images_needed"] - promise["images"])
    answered = "" if first["class"] is None else f" answered {_quoted(first['class'])}"
    text = (
        f"Add images: to promise {wanted}, about {first['images_needed']:,} held-out ones{answered} would do; "
        f"there are {first['images']:,}."
    )
    return [Line(text, "confidence")]


def _confused(test: Mapping[str, Any], classes: Sequence[str]) -> list[Line]:
    pairs = confused_pairs(test["confusion"], classes)
    if len(classes) < 3 or not pairs or pairs[0]["n"] < 3:
        return []
    actual, predicted = (_quoted(pairs[0][side]) for side in ("actual", "predicted"))
    text = f"Compare {actual} with {predicted}: {pairs[0]['n']} of {pairs[0]['support']} images are mistaken for it."
    return [Line(text, "classes")]


def _trials(evaluation: Mapping[str, Any]) -> list[Line]:
    lines = []
    if evaluation["compare"]["left_out"]:
        told = f"{comparison_wording.told_left_out(evaluation)} Train all the same:"
        lines.append(Line(told, "strategies", "make run SET=compare.budget_minutes=null"))
    elif len(evaluation["strategies"]) == 1:
        lines.append(Line("See whether another strategy is worth its time:", "strategies", "make run STRATEGY=all"))
    if not evaluation["what_if"]:
        text = "See what darker, blurred or cropped images would cost:"
        lines.append(Line(text, command='make run SET="evaluate.shift_images=100"'))
    return lines


def _champion(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    champion: Mapping[str, Any] = evaluation["strategies"][evaluation["champion"]]
    return champion


def _quoted(label: str) -> str:
    return f"“{visible(label, 40)}”"


def _interval(ends: Sequence[float]) -> str:
    return f"95 % confidence interval {percent(ends[0])} to {percent(ends[1])}"
