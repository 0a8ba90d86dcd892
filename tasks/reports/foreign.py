"""Which score tells foreign images best, above which score an image is foreign, and what the report says of it.

Everything comes from scores of images that the score was not fitted to; see `tasks.vgg.foreign_trials`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.reports.data_uris import thumbnail
from tasks.reports.influences import Mean, Measured, roc_auc, share_of
from tasks.reports.text import percent
from tasks.reports.uncertainty import interval
from tasks.reports.why import Images
from tasks.scores import Floats, Integers

WORDS = {
    "maximum_softmax": "maximum softmax",
    "energy": "energy",
    "nearest_neighbours": "k nearest neighbours",
    "mahalanobis": "relative Mahalanobis distance",
    "virtual_logit": "ViM",
}
"""The scores' names for people."""
KEPT = 0.95
"""Share of the true images that are not called foreign."""
_USEFUL = 0.8
"""A near AUROC from which the score is called useful for things that look like the classes."""
_SIDE_PX = 112
_AS_GOOD = 0.005
"""A simpler score is taken if its mean AUROC is lower by at most this much."""

HeldOut = tuple[int, Integers, npt.NDArray[np.bool_], Floats]
"""A class that was taken for foreign: its index, numbers of images (m,), which are of it (m,), their scores (m,)."""


def measure_near(held_out: Sequence[HeldOut], groups: Integers) -> tuple[Measured | None, dict[int, float]]:
    """AUROC of the held-out classes against the others: the mean, and each class's.

    Args:
        held_out: one entry a class.
        groups: (n,) of all images that the numbers mean.
    """
    mean, each = Mean(), {}
    for label, rows, foreign, scores in held_out:
        measured = roc_auc(foreign, scores)
        if measured is not None:
            each[label] = measured.value
            mean.add(_among(measured, rows, len(groups)))
    return mean.result(), each


def _among(measured: Measured, rows: Integers, number: int) -> Measured:
    """The same metric of some among all images; the others have no influence on it."""
    influence = np.zeros(number)
    influence[rows] = measured.influence
    parts = []
    for part in measured.parts:
        chosen = np.zeros(number, bool)
        chosen[rows[part]] = True
        parts.append(chosen)
    return Measured(measured.value, influence, tuple(parts))


def measure_far(true: Floats, far: Floats, groups: Integers) -> dict[str, Any]:
    """AUROC of images of another kind (m,) against true ones (n,), whose groups (n,) are given."""
    foreign = np.arange(len(true) + len(far)) >= len(true)
    every = np.concatenate([groups, groups.max() + 1 + np.arange(len(far))])
    return with_interval(roc_auc(foreign, np.concatenate([true, far])), every)


def keep_threshold(true: Floats) -> float:
    """The lowest score above which an image is called foreign, so that a new true one is kept with 95 % chance.

    It is a score of one of the images (V. Vovk et al., Algorithmic Learning in a Random World, 2005). Fewer than 19
    images can't keep 95 %: then it is the highest score.
    """
    rank = min(ceil(KEPT * (len(true) + 1)), len(true))
    return float(np.sort(true)[rank - 1])


def share_above(scores: Floats, threshold: float, groups: Integers) -> dict[str, Any]:
    """Which share of images is called foreign."""
    return with_interval(share_of(np.ones(len(scores), bool), scores > threshold), groups)


def with_interval(measured: Measured | None, groups: Integers) -> dict[str, Any]:
    """`value` and `ci95` of a metric of images in these groups (n,), both None if it is undefined."""
    numbers = np.unique(groups, return_inverse=True)[1]
    return {"value": measured.value if measured else None, "ci95": interval(measured, numbers)}


def choose_score(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """The highest mean of near and far AUROC; a simpler score, which comes first, if it is as good.

    Without a near AUROC a score counts as a coin toss there: with two classes most scores can't be tried.
    """
    means = {name: np.mean([_or_toss(one["near"]["value"]), one["far"]["value"]]) for name, one in scores.items()}
    best = max(means.values())
    return next(name for name, mean in means.items() if mean >= best - _AS_GOOD)


def _or_toss(auroc: float | None) -> float:
    return 0.5 if auroc is None else auroc


def judge_scores(
    out_of_fold: Mapping[str, Floats],
    held_out: Mapping[str, Sequence[HeldOut]],
    far: Mapping[str, Floats],
    groups: Integers,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Every score's AUROC near and far, the score that is used, and its threshold.

    Args:
        out_of_fold: name of a score -> scores of the true images (n,); the simplest score comes first.
        held_out: name -> the classes that were taken for foreign.
        far: name -> scores of images of another kind.
        groups: (n,) numbers of groups of the true images.
        classes: names.

    Returns:
        JSON-ready: `score` (its name), `threshold`, `images`, `far_images`, `caught` (share of the far images above the
        threshold), `scores` {name: {near: {value, ci95, per_class}, far: {value, ci95}}}.
    """
    scores = {}
    for name, true in out_of_fold.items():
        near, each = measure_near(held_out[name], groups)
        scores[name] = {
            "near": {**with_interval(near, groups), "per_class": {classes[label]: one for label, one in each.items()}},
            "far": measure_far(true, far[name], groups),
        }
    chosen = choose_score(scores)
    threshold = keep_threshold(out_of_fold[chosen])
    return {
        "score": chosen,
        "threshold": threshold,
        "images": len(groups),
        "far_images": len(far[chosen]),
        "caught": share_above(far[chosen], threshold, np.arange(len(far[chosen]))),
        "scores": scores,
    }


def foreign_verdict(found: Mapping[str, Any]) -> str:
    """What the test images say about the score that is used, in a few sentences."""
    called, used = found["called_foreign"], found["scores"][found["score"]]
    low, high = (percent(end) for end in called["ci95"])
    return (
        f"{percent(called['value'])} of {found['tested']:,} test images are called foreign although they belong to a "
        f"class (95 % confidence interval {low} to {high}); the threshold aims at {percent(1 - KEPT, 0)}. Of "
        f"{found['far_images']} drawings, textures and noise, which no class is like, "
        f"{percent(found['caught']['value'], 0)} are called foreign. {_near_sentence(used['near'])}"
    )


def _near_sentence(near: Mapping[str, Any]) -> str:
    if near["value"] is None:
        return "How well it tells things that look like the classes can't be measured with so few classes."
    text = (
        "Each class in turn was held out and taken for foreign: of an image of it and one of the other classes, the "
        f"first has the higher score with a probability of {percent(near['value'], 0)}; a coin toss gives "
        f"{percent(0.5, 0)}."
    )
    if near["value"] >= _USEFUL:
        return text
    advice = "Don't rely on it for things that look like the classes: give them a class of their own, with images."
    return f"{text} {advice}"


def foreign_summary(found: Mapping[str, Any]) -> str:
    """How surely it tells foreign images, in one sentence."""
    near = found["scores"][found["score"]]["near"]["value"]
    if near is None:
        also = ""
    elif near >= _USEFUL:
        also = ", and most things that look like its classes"
    else:
        also = "; things that look like its classes it often misses"
    far = percent(found["caught"]["value"], 0)
    return f"Of drawings and noise, it calls {far} foreign: images of none of its classes{also}."


def show_most(found: Mapping[str, Any], images: Images) -> list[dict[str, Any]]:
    """The most foreign test images, with thumbnails."""
    return [{**one, "image": thumbnail(images[one["key"]], _SIDE_PX)} for one in found["most"]]
