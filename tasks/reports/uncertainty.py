"""How far chance may move a metric, if images of one group are alike (a patient's, a video's, near duplicates).

Here a group is a set of images that belong together, see `tasks.images.folds.groups_of`; most images are alone in
theirs. SciPy's statistics take a second to import, so they are not used.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.scores import Floats, Integers

Booleans = npt.NDArray[np.bool_]
_NORMAL_QUANTILE = 1.959963984540054
"""Of the standard normal distribution, at 0.975."""
_EXACT_UP_TO = 20_000
"""With up to this many differences the p-value is exact; the time grows with the square."""


def effective_groups(groups: Integers) -> float:
    """How many groups of equal size would tell as much (L. Kish, 1965); below their number if few are much larger."""
    sizes = np.unique(groups, return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / np.square(sizes).sum())


def accuracy_interval(hits: Booleans, groups: Integers | None = None) -> tuple[float, float]:
    """95 % confidence interval of the accuracy, for images of groups like these but other ones.

    If every image is alone, it is the interval of E. B. Wilson (1927). Unlike the textbook's +-1.96 standard errors it
    keeps its coverage near 0 and 1 and for small n (L. D. Brown, T. T. Cai, A. DasGupta, 2001). Otherwise it is
    Wilson's interval for the effective number of images, with Student's t (C. Franco et al., Comparative Study of
    Confidence Intervals for Proportions in Complex Sample Surveys, 2019). If all hits are equal, nothing tells how
    alike the images of a group are, and each group counts as one image. `benchmarks.intervals` compares this with
    bootstraps, which are too narrow for few groups.

    Args:
        hits: (n,) whether the prediction is right.
        groups: (n,) numbers of the images' groups; None: every image is alone.
    """
    n, share = len(hits), float(hits.mean())
    if groups is None or len(np.unique(groups)) == n:
        return _wilson(share, n, _NORMAL_QUANTILE)
    known = effective_groups(groups)
    if known <= 1 + 1e-9:
        return 0.0, 1.0
    from scipy.special import stdtrit

    alone = share * (1 - share)  # variance of one image
    images = alone / max(standard_error(hits.astype(np.float64), groups) ** 2, alone / n) if alone else known
    return _wilson(share, images, float(stdtrit(known - 1, 0.975)))


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return centre - half if share > 0 else 0.0, centre + half if share < 1 else 1.0


def standard_error(values: Floats, groups: Integers, weights: Floats | None = None) -> float:
    """Standard error of the mean of values (n,) which are independent only between groups; infinite for one group.

    Args:
        values: (n,).
        groups: (n,) numbers of groups.
        weights: (n,) how much each value counts in the mean; None: all the same.
    """
    weights = np.ones(len(values)) if weights is None else weights
    influence = weights * (values - np.average(values, weights=weights)) / weights.sum()
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], influence)
    n = len(sums)
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
    codes = np.arange(len(first)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums = np.bincount(codes, differences).round().astype(np.int64)
    return {
        "n": len(first),
        "both_correct": int(np.sum(first & second)),
        "first_only": int(np.sum(first & ~second)),
        "second_only": int(np.sum(second & ~first)),
        "p_value": _sign_flip_p_value(sums),
    }


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
