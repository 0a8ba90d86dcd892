"""Figures in plain sentences, for a reader who is no statistician."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.reports.text import percent, visible
from tasks.vgg import strategies

FEW_IMAGES = 300
CLEAR = 0.05
"""Below this chance a difference is called clear."""


def title(classes: Sequence[str]) -> str:
    """`ants or bees?`, or how many classes there are if more than three."""
    if len(classes) > 3:
        return f"Which of {len(classes)} classes?"
    return f"{' or '.join(visible(name, 28) for name in classes)}?"


def commonest(test: Mapping[str, Any]) -> str:
    """The class with the most held-out images; of equals the first."""
    per_class: Mapping[str, Mapping[str, Any]] = test["per_class"]
    return max(per_class, key=lambda name: per_class[name]["support"])


def verdict(test: Mapping[str, Any]) -> str:
    """Whether the model beats blind guessing, and how far the figure can be trusted."""
    guess, (low, high) = test["majority_accuracy"], test["accuracy_ci95"]
    blind = f"always answering the commonest class, which is right for {percent(guess)}"
    if low > guess:
        text = f"That is clearly better than {blind}."
    elif high < guess:
        text = f"That is worse than {blind}: something is wrong, don't use this model."
    else:
        text = f"That is not clearly better than {blind}."
    if test["n"] < FEW_IMAGES:
        text += f" With only {test['n']} held-out images, a single one weighs {100 / test['n']:.1f} points."
    return text


def calibration_verdict(test: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether it is too sure, too modest or about right: on average over all images."""
    sure = sum(row["n"] * row["confidence"] for row in rows) / test["n"]
    right = test["accuracy"]
    low, high = test["accuracy_ci95"]
    facts = f"On average it was {percent(sure)} sure, and right for {percent(right)}"
    if low <= sure <= high:
        return f"{facts}: about as sure as it should be."
    return f"{facts}: {'too sure of itself' if sure > right else 'more modest than it needs to be'}."


def comparison_verdict(pair: Mapping[str, Any]) -> str:
    """What the paired test says of the champion (first) and another strategy (second)."""
    if pair["first_only"] == pair["second_only"]:
        return "no difference"
    better = "the champion" if pair["first_only"] > pair["second_only"] else "the other"
    return f"{better} is better" if pair["p_value"] < CLEAR else "no clear difference"


def data_sentence(data: Mapping[str, Any]) -> str:
    """How many images there are, from where, and what was left out."""
    numbers = (("quarantined", data["quarantined"]), ("excluded", sum(data["excluded"].values())))
    left_out = [f"{n} {'is' if n == 1 else 'are'} {kind}" for kind, n in numbers if n]
    origin = f" from {visible(data['source'], 120)}" if data["source"] else ""
    text = f"{data['accepted']} images{origin} were accepted"
    return f"{text}; {' and '.join(left_out)}." if left_out else f"{text}, none was left out."


def split_sentence(data: Mapping[str, Any]) -> str:
    """How the images were divided; as far as the data summary tells."""
    given, fractions = data.get("given_splits"), data.get("fractions") or {}
    carved = [
        f"{percent(fractions[name], 0)} for {name}"
        for name in ("validation", "test")
        if name in fractions and name not in (given or ())
    ]
    parts = []
    if given:
        parts.append(f"The source itself assigns {' and '.join(visible(name, 20) for name in given)}.")
    if carved:
        parts.append(f"Drawn by a hash of each image's content: {' and '.join(carved)}.")
    parts.append("Images that look the same, or belong to one group, are never in two splits.")
    parts.append("Nothing was learned from, or chosen on, the test images.")
    return " ".join(parts)


def recipe_sentence(strategy: str, recipe: str, training: Mapping[str, Any]) -> str:
    """How a model was trained, with its summary `training`; empty for names that are not known here."""
    known = strategies.BY_NAME.get(strategy)
    return known.describe(recipe, training) if known and recipe in known.descriptions else ""


def facts(evaluation: Mapping[str, Any], champion: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values for the list at the page's end."""
    rows = [
        ("source", evaluation["data"]["source"] or "not recorded"),
        ("strategy", evaluation["champion"]),
        ("recipe", champion["recipe"]),
        ("validation accuracy", f"{percent(champion['validation']['accuracy'])} of {champion['validation']['n']}"),
        ("log loss, held-out", f"{champion['test']['log_loss']:.4f}"),
        ("macro F1, held-out", percent(champion["test"]["macro_f1"])),
    ]
    refitted = champion["training"].get("refitted_with_validation")
    if refitted is not None:
        rows.append(("trained once more on train + validation", "yes" if refitted else "no"))
    for prefix, block in (("chosen", champion["training"].get("chosen")), ("backbone", champion["backbone"])):
        rows += [(f"{prefix}: {str(key).replace('_', ' ')}", _plain(value)) for key, value in (block or {}).items()]
    return rows


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
