"""The gate's checks: may a candidate replace what is in production? Pure functions of arrays and of evaluations.

Each check gives one row of the verdict: `check`, `candidate`, `production`, `limit` (as people read them), `passed` and
`sentence`. What only chance explains refuses nobody: a check fails if the candidate is clearly worse. The accuracy is
the exception. There the difference itself counts, and `gate.margin` says how much may be lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.reports.text import percent, visible
from tasks.reports.uncertainty import compare_paired, standard_error
from tasks.reports.what_if import STRENGTHS
from tasks.scores import Floats, Integers

Booleans = npt.NDArray[np.bool_]
Row = dict[str, Any]
NONE = "\u2013"
_QUANTILE = 1.959963984540054
_MOST_LEAKED = 0.01
"""Share of the held-out images that may resemble training images: a chain of near duplicates is no proof of a leak."""
_NAMED = 3


@dataclass(frozen=True)
class Pairs:
    """Both versions on the same held-out images.

    Attributes:
        hits: (n,) whether the candidate's prediction is right; `hits_before` the same of production.
        losses: (n,) log losses; `losses_before` the same.
        groups: (n,) numbers of the images' groups.
    """

    hits: Booleans
    hits_before: Booleans
    losses: Floats
    losses_before: Floats
    groups: Integers


@dataclass(frozen=True)
class HeldOut:
    """Which held-out images of the candidate are compared.

    Attributes:
        n: all of them.
        leaked: those that the candidate itself has learned from, as they are or as near duplicates.
        known: those that production has learned from; they are left out.
        strange: those of classes that production doesn't know; they are left out.
    """

    n: int
    leaked: int
    known: int = 0
    strange: int = 0

    @property
    def left(self) -> int:
        return self.n - self.leaked - self.known - self.strange


def check_held_out(images: HeldOut, has_production: bool) -> Row:
    """Whether the held-out images are held out, and whether any is left to compare."""
    limit = f"at most {percent(_MOST_LEAKED, 0)} leaked"
    told = []
    if images.leaked:
        told.append(
            f"{images.leaked:,} of {images.n:,} are training images of the candidate, or near duplicates of some"
        )
    if images.known:
        told.append(f"{images.known:,} are training images of the version in production and are left out")
    if images.strange:
        told.append(f"{images.strange:,} are of classes that it doesn't know and are left out")
    passed = images.leaked <= _MOST_LEAKED * images.n and images.left > 0
    compared = "compared" if has_production else "held out"
    told.append(f"{images.left:,} images are {compared}" if images.left else "no image is left to compare")
    return _row("held-out images", f"{images.left:,}", NONE, limit, passed, f"{_capital('; '.join(told))}.")


def check_accuracy(pairs: Pairs, margin: float) -> Row:
    """The accuracy on the same images: the candidate may lose at most the margin."""
    found = compare_paired(pairs.hits, pairs.hits_before, pairs.groups)
    low, high = (_points(end) for end in found["difference_ci95"])
    passed = found["difference"] >= -margin - 1e-12
    sentence = (
        f"The candidate's accuracy differs by {_points(found['difference'])} points on the same {found['n']:,} images "
        f"(95 % confidence interval {low} to {high})"
    )
    if not passed and found["difference_ci95"][1] >= -margin:
        sentence += ". This may be chance: more held-out images would tell"
    limit = f"{_points(-margin)} points"
    return _row(
        "accuracy", percent(pairs.hits.mean()), percent(pairs.hits_before.mean()), limit, passed, f"{sentence}."
    )


def check_recalls(test: Mapping[str, Any], floor: float) -> Row:
    """The recall of each class on the candidate's held-out images. `test`: see `metrics.measure`."""
    measured = {name: one for name, one in test["per_class"].items() if one["recall"] is not None}
    lowest = min(measured, key=lambda name: float(measured[name]["recall"]), default=None)
    failed = [name for name, one in measured.items() if one["recall_ci95"] and one["recall_ci95"][1] < floor]
    shown = percent(measured[lowest]["recall"]) if lowest is not None else NONE
    if failed:
        named = "; ".join(
            f"{visible(name, 40)} {percent(measured[name]['recall'])} of {measured[name]['support']}"
            for name in failed[:_NAMED]
        )
        more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
        sentence = f"Clearly below the floor: {named}{more}."
    else:
        sentence = "No class is clearly below the floor."
    return _row("recall of each class", shown, NONE, f"at least {percent(floor, 0)}", not failed, sentence)


def check_log_loss(pairs: Pairs) -> Row:
    """How right the probabilities are, by the log loss on the same images."""
    differences = pairs.losses - pairs.losses_before
    mean, error = float(differences.mean()), standard_error(differences, pairs.groups)
    low, high = mean - _QUANTILE * error, mean + _QUANTILE * error
    passed = not low > 0
    sentence = (
        f"The candidate's log loss differs by {mean:+.3f} on the same images (95 % confidence interval {low:+.3f} to "
        f"{high:+.3f}); lower is better."
    )
    shown, before = (f"{values.mean():.3f}" for values in (pairs.losses, pairs.losses_before))
    return _row("log loss", shown, before, "not clearly higher", passed, sentence)


def check_foreign(now: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> Row:
    """How well images of none of the classes are told. Both: `foreign` of `reports/evaluation.json`."""
    name, limit = "foreign images", "not clearly worse"
    if not now or not before:
        lost = bool(before) and not now
        sentence = "The candidate can't tell foreign images; production can." if lost else "Not measured by both."
        return _row(name, NONE, NONE, limit, not lost, sentence)
    measured = [_foreign_measures(one) for one in (now, before)]
    worse = [
        what
        for what, (value, ends, higher_is_better) in measured[0].items()
        if value is not None and measured[1][what][0] is not None
        if (ends[1] < measured[1][what][1][0] if higher_is_better else ends[0] > measured[1][what][1][1])
    ]
    sentence = f"Clearly worse: {', '.join(worse)}." if worse else "Neither missed more often nor called too often."
    caught, caught_before = (percent(one["caught"][0], 0) for one in measured)
    return _row(name, caught, caught_before, limit, not worse, sentence)


def check_what_if(now: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> Row:
    """The accuracy on worse copies of images. Both: `what_if` of `reports/evaluation.json`."""
    name, limit = "worse images", "not clearly worse"
    if not now or not before:
        return _row(name, NONE, NONE, limit, True, "Not measured by both (evaluate.shift_images).")
    rows = [
        {(kind["kind"], one["strength"]): one for kind in side["kinds"] for one in kind["strengths"]}
        for side in (now, before)
    ]
    shared = [copy for copy in rows[0] if copy in rows[1]]
    worse = [copy for copy in shared if rows[0][copy]["accuracy_ci95"][1] < rows[1][copy]["accuracy_ci95"][0]]
    mean, mean_before = (percent(float(np.mean([side[copy]["accuracy"] for copy in shared]))) for side in rows)
    named = ", ".join(f"{kind} ({STRENGTHS[strength]})" for kind, strength in worse[:_NAMED])
    sentence = f"Clearly less accurate: {named}." if worse else "No kind of worse images costs it clearly more."
    return _row(name, mean, mean_before, limit, not worse, sentence)


def check_export(difference: float | None, tolerance: float, problem: str, *, is_signed: bool = False) -> Row:
    """Whether the exported model loads in a new process and answers there as it was evaluated.

    Args:
        difference: largest difference of a probability; None if it doesn't load.
        tolerance: `export.probability_tolerance`.
        problem: why it doesn't load.
        is_signed: its signature was checked by a public key.
    """
    limit = f"differs by at most {tolerance:g}"
    if difference is None:
        return _row("export", "doesn't load", NONE, limit, False, problem)
    passed = difference <= tolerance
    shown = f"{difference:.5f}"
    sentence = (
        f"A new process has loaded the exported model. Its probabilities differ from the evaluation's by {shown}."
        f"{' It is signed by the owner of the public key.' if is_signed else ''}"
    )
    return _row("export", shown, NONE, limit, passed, sentence)


def check_budget(name: str, value: float, unit: str, most: float) -> Row:
    """A size or a duration against its budget."""
    passed = value <= most
    sentence = f"It takes {value:.0f} {unit}; {'at most' if passed else 'the budget is'} {most:g} {unit}."
    return _row(name, f"{value:.0f} {unit}", NONE, f"{most:g} {unit}", passed, sentence)


def _row(check: str, candidate: str, production: str, limit: str, passed: bool, sentence: str) -> Row:
    return {
        "check": check,
        "candidate": candidate,
        "production": production,
        "limit": limit,
        "passed": bool(passed),
        "sentence": sentence,
    }


def _foreign_measures(found: Mapping[str, Any]) -> dict[str, tuple[float | None, Sequence[float], bool]]:
    """Name -> value, interval, and whether higher is better."""
    used = found["scores"][found["score"]]
    measures = {
        "caught": (found["caught"], True),
        "AUROC of classes held out": (used["near"], True),
        "called foreign": (found["called_foreign"], False),
    }
    return {name: (one["value"], one["ci95"], better) for name, (one, better) in measures.items()}


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
