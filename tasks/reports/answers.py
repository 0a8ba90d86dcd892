"""The threshold above which answers are right as often as wanted, on new images too, with 95 % confidence.

The rule is "answer if the confidence is at least the threshold, else say that you are unsure". Its precision is the
share of right ones among its answers. Thresholds are tested from the surest image down, at ranks that are fixed before,
until one fails. So the chance of a wrong promise doesn't grow with the number of tests (fixed sequence testing with
several starts, which share the 5 %: A. N. Angelopoulos et al., Learn then Test, 2021). Each test is exact: given its
threshold, the images above it are a random sample, and its mistakes are binomial.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import ceil, log, log2
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.reports.influences import share_of
from tasks.reports.uncertainty import interval
from tasks.scores import Floats, Integers, predict

_LEVEL = 0.05
_STEP = 1.15
"""Each tested rank is this much higher than the one before."""
_MOST_STARTS = 4
"""With one start, one mistake among the surest images would end all tests."""
_DECIMALS = 6
_MOST_IMAGES = 10_000_000


@dataclass(frozen=True)
class Promise:
    """The lowest threshold that keeps the wanted precision.

    Attributes:
        threshold: smallest confidence of an answer; None: these images can't promise it at any threshold.
        answered: share of the images with an answer; None without a threshold.
        images: how many images this rests on; images that belong together count once.
        images_needed: about how many would allow a promise, if new ones are like these; None: there is a promise, or no
            number would do.
    """

    threshold: float | None
    answered: float | None
    images: int
    images_needed: int | None


def promise_precision(confidence: Floats, hits: npt.NDArray[np.bool_], groups: Integers, wanted: float) -> Promise:
    """The threshold for a wanted precision.

    Args:
        confidence: (n,) of predictions for images that the classifier was not trained on.
        hits: (n,) whether the prediction is right.
        groups: (n,) numbers of the images' groups; one image of each is used.
        wanted: precision, above 0 and below 1.
    """
    one_of_each = np.unique(groups, return_index=True)[1]
    order = one_of_each[np.argsort(-confidence[one_of_each], kind="stable")]
    sure, mistakes = confidence[order].astype(np.float64), np.cumsum(~hits[order], dtype=np.int64)
    found: tuple[float, int] | None = None
    starts, level = _starts(len(order), wanted)
    for start in starts:
        for rank in _ranks(start, len(order)):
            below = sure[rank] if rank < len(order) else 0.0
            if sure[rank - 1] == below:
                continue  # no threshold lies between equal confidences
            if _chance_of_at_most(mistakes[rank - 1], rank, 1 - wanted) > level:
                break
            if found is None or rank > found[1]:
                found = (_just_above(below), rank)
    if found is None:
        return Promise(None, None, len(order), _images_needed(mistakes, wanted))
    return Promise(found[0], found[1] / len(order), len(order), None)


def _starts(images: int, wanted: float) -> tuple[list[int], float]:
    """The first tested rank of each sequence, from the fewest that can pass to half of all; and the level of each."""
    fewest = _fewest(wanted, _LEVEL)
    if images < fewest:
        return [], _LEVEL
    number = min(_MOST_STARTS, 1 + int(log2(images / fewest)))
    level = _LEVEL / number
    first = _fewest(wanted, level)
    return [ceil(first * (images / first) ** (step / number)) for step in range(number)], level


def _fewest(wanted: float, level: float) -> int:
    """How many answers pass the test if all are right."""
    return ceil(log(level) / log(wanted))


def _ranks(start: int, images: int) -> Iterator[int]:
    rank = start
    while rank < images:
        yield rank
        rank = ceil(_STEP * rank)
    if start <= images:
        yield images


def _chance_of_at_most(mistakes: Any, answers: Any, chance: float) -> Any:
    """Probability of so few mistakes in so many answers (the binomial distribution), element by element."""
    from scipy.special import betainc

    right = answers - mistakes
    return np.where(right > 0, betainc(np.maximum(right, 1), mistakes + 1, 1 - chance), 1.0)


def _just_above(confidence: float) -> float:
    """A threshold that excludes this confidence, with few digits."""
    return round(confidence + 0.6 * 10**-_DECIMALS, _DECIMALS) if confidence > 0 else 0.0


def _images_needed(mistakes: Integers, wanted: float) -> int | None:
    """The smallest number of images with these shares of mistakes at which a test passes; None: there is none."""
    images, times = len(mistakes), 1.1
    while images and images * times < _MOST_IMAGES:
        ranks = np.arange(1, images + 1) * times
        passes = _chance_of_at_most(np.ceil(mistakes * times), np.floor(ranks), 1 - wanted) <= _LEVEL / _MOST_STARTS
        if passes.any():
            return ceil(images * times)
        times *= 1.1
    return None


@dataclass(frozen=True)
class Predictions:
    """Predictions for images that the model was not trained on.

    Attributes:
        probabilities: (n, c).
        labels: (n,) class indices.
        groups: (n,) numbers of the images' groups.
    """

    probabilities: Floats
    labels: Integers
    groups: Integers

    @property
    def confidence(self) -> Floats:
        """The highest probability (n,)."""
        confidence: Floats = self.probabilities.max(axis=1)
        return confidence

    @property
    def hits(self) -> npt.NDArray[np.bool_]:
        return np.equal(self.predicted, self.labels)

    @cached_property
    def predicted(self) -> Integers:
        """Class indices (n,)."""
        return predict(self.probabilities)

    def only(self, chosen: npt.NDArray[np.bool_]) -> Predictions:
        return Predictions(self.probabilities[chosen], self.labels[chosen], self.groups[chosen])


def answer_rule(
    held_out: Predictions, test: Predictions, classes: Sequence[str], wanted: float | None, each_class: bool
) -> dict[str, Any]:
    """When the model answers, and when it says that it is unsure.

    Args:
        held_out: train and validation images, to find thresholds.
        test: to see what they come to.
        classes: the c names.
        wanted: precision of the answers; None: no threshold is looked for.
        each_class: promise it for the answers of each class, instead of all answers together.

    Returns:
        JSON: `wanted_precision`; `each_class`; `thresholds` (c), None for a class that gets no answers, or None if
        nothing is wanted; `promises`: for each threshold `class` (None: all), the fields of `Promise`, and of the test
        images `n`, `test_answered` (share), `test_precision` and `test_precision_ci95`; `curve`: see `precision_curve`,
        of the test images.
    """
    curve = precision_curve(test.probabilities, test.labels)
    rule: dict[str, Any] = {"wanted_precision": wanted, "each_class": each_class, "thresholds": None, "promises": []}
    if wanted is None:
        return {**rule, "curve": curve}
    for number, name in enumerate(classes) if each_class else [(None, None)]:
        held, tested = (one if number is None else one.only(one.predicted == number) for one in (held_out, test))
        promise = promise_precision(held.confidence, held.hits, held.groups, wanted)
        rule["promises"].append({"class": name, **asdict(promise), **_on_test(promise, tested)})
    thresholds = [promise["threshold"] for promise in rule["promises"]]
    return {**rule, "thresholds": thresholds if each_class else thresholds * len(classes), "curve": curve}


def _on_test(promise: Promise, test: Predictions) -> dict[str, Any]:
    n = len(test.labels)
    answered = np.full(n, promise.threshold is not None) & (test.confidence >= (promise.threshold or 0.0))
    precision = interval(share_of(answered, test.hits), np.unique(test.groups, return_inverse=True)[1]) if n else None
    return {
        "n": n,
        "test_answered": float(answered.mean()) if n else None,
        "test_precision": float(test.hits[answered].mean()) if answered.any() else None,
        "test_precision_ci95": precision,
    }


def precision_curve(probabilities: Floats, labels: Integers, points: int = 50) -> list[dict[str, Any]]:
    """Share of answers against their precision, from the surest image to all.

    Args:
        probabilities: (n, c).
        labels: (n,) class indices.
        points: most rows.

    Returns:
        rows of `threshold`, `answered` (share of the images), `n` and `precision`.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(predict(probabilities)[order] == labels[order])
    ranks = np.unique(np.linspace(1, len(order), min(points, len(order))).round().astype(int))
    return [
        {
            "threshold": float(confidence[order[rank - 1]]),
            "answered": rank / len(order),
            "n": int(rank),
            "precision": float(hits[rank - 1] / rank),
        }
        for rank in ranks
    ]
