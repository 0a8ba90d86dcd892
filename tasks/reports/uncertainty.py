"""How far chance may move a metric, if images of one group are alike (a patient's, a video's, near duplicates).

Here a group is a set of images that belong together, see `tasks.images.folds.groups_of`; most images are alone in
theirs. SciPy's statistics take a second to import, so they are not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.reports.influences import Measured, share_of, weighted_mean
from tasks.scores import Floats, Integers

Booleans = npt.NDArray[np.bool_]
_NORMAL_QUANTILE = 1.959963984540054
"""Of the standard normal distribution, at 0.975."""
_EXACT_UP_TO = 20_000
"""With up to this many differences the p-value is exact; the time grows with the square."""


def effective_groups(groups: Integers) -> float:
    """How many groups of equal size would tell as much (L. Kish, 1965); below their number if few are much larger."""
    sizes = np.bincount(groups).astype(np.float64)
    return float(sizes.sum() ** 2 / np.square(sizes).sum())


def accuracy_interval(hits: Booleans, groups: Integers | None = None) -> tuple[float, float]:
    """95 % confidence interval of the accuracy, for images of groups like these but other ones; see `interval`.

    Args:
        hits: (n,) whether the prediction is right.
        groups: (n,) numbers of the images' groups; None: every image is alone.
    """
    groups = np.arange(len(hits)) if groups is None else groups
    found = interval(share_of(np.ones(len(hits), bool), hits), groups)
    assert found is not None
    return found[0], found[1]


def interval(measured: Measured | None, groups: Integers, *, is_share: bool = True) -> list[float] | None:
    """95 % confidence interval of a metric.

    A share gets E. B. Wilson's (1927). Unlike the textbook's +-1.96 standard errors it keeps its coverage near 0 and 1
    and for small n (L. D. Brown, T. T. Cai, A. DasGupta, 2001). With groups, it is that of as many images as would give
    the same standard error, with Student's t (C. Franco et al., Comparative Study of Confidence Intervals for
    Proportions in Complex Sample Surveys, 2019). If all images count the same, nothing tells how alike those of a group
    are, and each group counts as one image. A metric without an upper end, such as the log loss, gets t standard errors
    of its logarithm. `benchmarks.intervals` compares this with bootstraps, which are too narrow for few groups.

    Args:
        measured: the metric.
        groups: (n,) numbers of the images' groups, small ones from 0.
        is_share: whether it lies between 0 and 1.

    Returns:
        its ends; None if the metric is undefined, or if it has no upper end and a single group tells of it.
    """
    from scipy.special import stdtrit

    if measured is None:
        return None
    alone = int(np.bincount(groups).max()) == 1
    known = _as_many_as(measured, lambda part: effective_groups(groups[part]))
    if known <= 1 + 1e-9 and not (alone and is_share):
        return [0.0, 1.0] if is_share else None
    quantile = _NORMAL_QUANTILE if alone else float(stdtrit(known - 1, 0.975))
    value, error = measured.value, _error_of(measured.influence, groups)
    if not is_share:
        factor = float(np.exp(quantile * error / value)) if value > 0 else 1.0
        return [value / factor, value * factor]
    spread = value * (1 - value)
    images = spread / error**2 if error > 0 and spread > 0 else known
    if not alone:  # images that are alike never tell more than other ones
        images = min(images, _as_many_as(measured, lambda part: float(part.sum())))
    return list(_wilson(value, images, quantile))


def _error_of(influence: Floats, groups: Integers) -> float:
    sums, number = np.bincount(groups, influence), np.count_nonzero(np.bincount(groups))
    # With groups, their few sums are compared with their own mean; images that are alone get exactly Wilson's error.
    correction = 1.0 if number == len(groups) else number / (number - 1)
    return float(np.sqrt(correction * np.square(sums).sum()))


def _as_many_as(measured: Measured, count: Callable[[Booleans], float]) -> float:
    """The count of what a metric rests on; for a mean over classes, the one that each would need in equal classes."""
    each = [count(part) for part in measured.parts if part.any()]
    return len(each) ** 2 / sum(1 / one for one in each)


def _wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    """E. B. Wilson's interval of a share of n images; it ends at 0 or 1 if the share is just that."""
    centre = (share + quantile**2 / (2 * n)) / (1 + quantile**2 / n)
    half = quantile * math.sqrt(share * (1 - share) / n + quantile**2 / (4 * n**2)) / (1 + quantile**2 / n)
    return centre - half if share > 0 else 0.0, centre + half if share < 1 else 1.0


def standard_error(values: Floats, groups: Integers, weights: Floats | None = None) -> float:
    """Standard error of the mean of values (n,) which are independent only between groups; infinite for one group.

    Args:
        values: (n,).
        groups: (n,) numbers of groups.
        weights: (n,) how much each value counts in the mean; None: all the same.
    """
    sums, n = np.bincount(groups, weighted_mean(values, weights).influence), np.count_nonzero(np.bincount(groups))
    return float(np.sqrt(n / (n - 1) * np.square(sums).sum())) if n > 1 else float("inf")


def compare_paired(first: Booleans, second: Booleans, groups: Integers | None = None) -> dict[str, Any]:
    """Exact sign-flip test of two models on the same images (R. A. Fisher, 1935), two-sided.

    If the models were equally good, exchanging them for all images of a group would change nothing: each group's
    difference is as likely to favour the other model. `p_value` is the probability of a result at least this uneven.
    If every image is alone, this is the exact McNemar test (1947): only images that exactly one model predicts right
    tell anything, and each is a coin toss.

    Args:
        first: (n,) whether the first model's prediction is right; `second` likewise.
        groups: (n,) numbers of the images' groups; None: every image is alone.
    """
    if first.shape != second.shape:
        raise ValueError(f"Pairs need equal shapes. Received: {first.shape}, {second.shape}")
    differences = first.astype(np.int64) - second
    sums = differences if groups is None else np.bincount(groups, differences).round().astype(np.int64)
    return {
        "n": len(first),
        "both_correct": int(np.sum(first & second)),
        "first_only": int(np.sum(first & ~second)),
        "second_only": int(np.sum(second & ~first)),
        "difference": float(differences.mean()),
        "difference_ci95": difference_interval(first, second, groups),
        "p_value": _sign_flip_p_value(sums),
    }


def difference_interval(first: Booleans, second: Booleans, groups: Integers | None = None) -> list[float]:
    """95 % confidence interval of the difference of two accuracies on the same images.

    It adds one image to each kind of disagreement, so that models which agree on all images aren't called equal for
    sure (D. Bonett, R. Price, 2012). With groups, its standard error is at least that of the groups' differences, with
    Student's t; for the arguments see `compare_paired`.
    """
    from scipy.special import stdtrit

    n = len(first) + 2
    shares = [(int(np.sum(one & ~other)) + 1) / n for one, other in ((first, second), (second, first))]
    difference = shares[0] - shares[1]
    error, quantile = math.sqrt((sum(shares) - difference**2) / n), _NORMAL_QUANTILE
    if groups is not None and int(np.bincount(groups).max()) > 1:
        known = effective_groups(groups)
        if known <= 1 + 1e-9:
            return [-1.0, 1.0]
        error = max(error, standard_error(first.astype(np.float64) - second, groups))
        quantile = float(stdtrit(known - 1, 0.975))
    return [max(-1.0, difference - quantile * error), min(1.0, difference + quantile * error)]


def correct_p_values(p_values: Sequence[float]) -> list[float]:
    """The p-values of several comparisons, corrected so that a level holds for all of them together (S. Holm, 1979)."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def _sign_flip_p_value(sums: Integers) -> float:
    """Probability that the sum is at least this far from 0 if every term's sign is a coin toss."""
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    most, found = int((sizes * counts).sum()), int(abs(sums.sum()))
    if most > _EXACT_UP_TO:
        return math.erfc(found / math.sqrt(2 * np.square(sums).sum()))
    chances = np.ones(1)  # chances[i] of a sum of 2 i - most
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        spread = np.zeros(size * count + 1)
        spread[::size] = _coin_tosses(count)
        chances = np.convolve(chances, spread)
    uneven = np.abs(2 * np.arange(most + 1) - most) >= found
    return min(1.0, float(chances[uneven].sum()))


def _coin_tosses(n: int) -> Floats:
    """Probabilities of 0...n heads in n tosses of a coin (n + 1,), from the middle outwards, each by the one before."""
    heads = np.arange(n // 2, n)
    upper = np.concatenate([np.ones(1), np.cumprod((n - heads) / (heads + 1))])
    chances: Floats = np.concatenate([upper[:0:-1], upper[n % 2 :]])
    chances /= chances.sum()
    return chances


def compare_with_champion(
    champion: str, hits: Mapping[str, Booleans], groups: Integers | None = None
) -> list[dict[str, Any]]:
    """The champion against each other model on the same images.

    Args:
        champion: its name.
        hits: name -> (n,) whether the model's prediction is right.
        groups: see `compare_paired`.

    Returns:
        for each other model `first` (the champion), `second`, all of `compare_paired`, and `p_value_corrected` for the
        number of comparisons.
    """
    others = [name for name in hits if name != champion]
    pairs = [
        {"first": champion, "second": name, **compare_paired(hits[champion], hits[name], groups)} for name in others
    ]
    corrected = correct_p_values([pair["p_value"] for pair in pairs])
    return [{**pair, "p_value_corrected": p_value} for pair, p_value in zip(pairs, corrected, strict=True)]
