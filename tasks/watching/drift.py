"""Do new images look like those that the model was tested on? Tests with a bounded rate of false alarms, and estimates.

New images have no labels. What can be compared are the model's probabilities and the backbone's features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.reports.uncertainty import correct_p_values
from tasks.scores import SMALLEST_PROBABILITY, Floats, Integers

Booleans = npt.NDArray[np.bool_]

LEVEL = 0.05
"""Largest probability of an alarm while nothing has changed, for all tests of one comparison together."""
MOST = 1000
"""Most images of a side that the kernel test compares; its time and memory grow with the square."""
_PERMUTATIONS = 500
_RESAMPLES = 500
_EM_STEPS = 1000
_EM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Sample:
    """Images without labels, as the model sees them.

    Attributes:
        probabilities: (n, classes) calibrated; each row adds up to 1.
        features: (n, d) pooled.
        foreign: (n,) whether the model calls them foreign; None if it can't tell.
        unsure: (n,) whether they get no answer; None if the model promises nothing.
    """

    probabilities: Floats
    features: Floats
    foreign: Booleans | None = None
    unsure: Booleans | None = None


def compare_samples(reference: Sample, new: Sample, classes: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Test whether new images come from the distribution of the reference images.

    Three kinds of tests share `LEVEL` by Holm's correction: of the probabilities, of the features, and of the share of
    foreign images. They hold for images that are independent; many near duplicates among the new ones raise alarms.

    Args:
        reference: images that the model did not learn from, 2 or more.
        new: 2 or more.
        classes: names of the probabilities' columns.
        seed: of permutations and of the choice among more than `MOST` images.

    Returns:
        JSON: `n`, `alarm`, and `tests`, each with `name`, `p_value`, `p_value_corrected` and `alarm`; that of the
        probabilities with the class that differs most. Besides the shares of `foreign` and `unsure` images.
    """
    rng = np.random.default_rng(seed)
    tests = [_compare_probabilities(reference, new, classes), _compare_features(reference, new, rng)]
    shares: dict[str, Any] = {}
    for name in ("foreign", "unsure"):
        before, after = getattr(reference, name), getattr(new, name)
        if before is not None and after is not None:
            shares[name] = {"reference": float(before.mean()), "new": float(after.mean())}
            if name == "foreign":
                tests.append({"name": name, "p_value": _more_often(before, after)})
    for test, corrected in zip(tests, correct_p_values([one["p_value"] for one in tests]), strict=True):
        test |= {"p_value_corrected": corrected, "alarm": bool(corrected <= LEVEL)}
    return {
        "n": {"reference": len(reference.probabilities), "new": len(new.probabilities)},
        "alarm": any(test["alarm"] for test in tests),
        "tests": tests,
        **shares,
    }


def _compare_probabilities(reference: Sample, new: Sample, classes: Sequence[str]) -> dict[str, Any]:
    """Kolmogorov's and Smirnov's test of each class's probability; the smallest p-value counts, times their number.

    S. Rabanser et al., Failing Loudly: An Empirical Study of Methods for Detecting Dataset Shift, 2019, found this one
    of the most powerful tests of a classifier's outputs. Two classes are one test: their probabilities add up to 1.
    """
    from scipy.stats import ks_2samp

    columns = range(1 if len(classes) == 2 else len(classes))
    found = [ks_2samp(reference.probabilities[:, one], new.probabilities[:, one]) for one in columns]
    most = int(np.argmin([one.pvalue for one in found]))
    p_value = min(1.0, float(found[most].pvalue) * len(found))
    return {
        "name": "probabilities",
        "p_value": p_value,
        "class": classes[most],
        "distance": float(found[most].statistic),
    }


def _compare_features(reference: Sample, new: Sample, rng: np.random.Generator) -> dict[str, Any]:
    """A. Gretton et al., A Kernel Two-Sample Test, 2012: Gaussian kernel, median distance, permutations."""
    first, second = (_some(one.features, rng) for one in (reference, new))
    distances = _squared_distances(np.concatenate([first, second]))
    typical = float(np.median(distances[np.triu_indices(len(distances), 1)]))
    kernel = np.exp(-distances / typical) if typical > 0 else np.ones_like(distances)
    np.fill_diagonal(kernel, 0)
    sides = np.zeros((len(kernel), _PERMUTATIONS + 1), np.float32)
    sides[: len(first)] = 1
    for column in range(1, _PERMUTATIONS + 1):
        rng.shuffle(sides[:, column])
    found = _discrepancies(kernel, sides)
    p_value = float((found[1:] >= found[0] - 1e-9).sum() + 1) / (_PERMUTATIONS + 1)
    return {"name": "features", "p_value": p_value, "discrepancy": float(found[0])}


def _discrepancies(kernel: Floats, sides: Floats) -> Floats:
    """Unbiased estimates of the squared maximum mean discrepancy, one for each column that says who is on side 1."""
    m = float(sides[:, 0].sum())
    n = len(sides) - m
    within, total = kernel @ sides, kernel.sum(axis=1)
    ones = (sides * within).sum(axis=0)
    across = (sides * total[:, np.newaxis]).sum(axis=0) - ones
    zeros = total.sum() - ones - 2 * across
    found: Floats = ones / (m * (m - 1)) + zeros / (n * (n - 1)) - 2 * across / (m * n)
    return found


def _squared_distances(features: Floats) -> Floats:
    """(n, d) -> (n, n) between features of length 1, so that a few large channels don't decide alone."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(lengths, 1e-12)
    found: Floats = np.maximum(2 - 2 * (unit @ unit.T), 0).astype(np.float32)
    return found


def _some(values: Floats, rng: np.random.Generator) -> Floats:
    if len(values) <= MOST:
        return values
    return values[np.sort(rng.choice(len(values), MOST, replace=False))]


def _more_often(before: Booleans, after: Booleans) -> float:
    """R. A. Fisher's exact test, one-sided: are more of the new images foreign? Fewer are no reason for an alarm."""
    from scipy.stats import fisher_exact

    table = [[int(after.sum()), int((~after).sum())], [int(before.sum()), int((~before).sum())]]
    return float(fisher_exact(table, alternative="greater").pvalue)


def estimate_class_shares(probabilities: Floats, prior: Floats, seed: int = 0) -> list[dict[str, Any]]:
    """Shares of the classes among new images, if only these shares have changed and not what a class looks like.

    M. Saerens et al., Adjusting the Outputs of a Classifier to New a Priori Probabilities, 2002. The probabilities must
    be calibrated. The interval is that of a bootstrap of the images.

    Args:
        probabilities: (n, classes) of new images.
        prior: (classes,) shares among the images that the model learned from, all above 0.
        seed: of the bootstrap.

    Returns:
        for each class `share` and `ci95`.
    """
    rng, n = np.random.default_rng(seed), len(probabilities)
    likelihoods = probabilities.astype(np.float64) / prior
    shares = _likeliest_shares(likelihoods, np.ones(n))
    drawn = rng.multinomial(n, np.full(n, 1 / n), _RESAMPLES)
    resampled = np.stack([_likeliest_shares(likelihoods[counts > 0], counts[counts > 0]) for counts in drawn])
    ends = np.percentile(resampled, [2.5, 97.5], axis=0).T.tolist()
    return [{"share": float(share), "ci95": both} for share, both in zip(shares, ends, strict=True)]


def _likeliest_shares(likelihoods: Floats, counts: Floats | Integers) -> Floats:
    """Shares (classes,) of a mixture that make images (n, classes), each as often as counted, most likely, by EM."""
    shares: Floats = np.full(likelihoods.shape[1], 1 / likelihoods.shape[1])
    for _ in range(_EM_STEPS):
        joint = likelihoods * shares
        scale = counts / np.maximum(joint.sum(axis=1), 1e-300)
        updated: Floats = scale @ joint / counts.sum()
        if np.abs(updated - shares).max() < _EM_TOLERANCE:
            return updated
        shares = updated
    return shares


def estimate_accuracy(reference: Floats, hits: Booleans, new: Floats) -> float:
    """Accuracy on new images, without labels, from how sure the model is.

    S. Garg et al., Leveraging Unlabeled Data to Predict Out-of-Distribution Performance, 2022: above a certain
    certainty lie as many of the reference images as are right; the estimate is the share of new images above it.

    Args:
        reference: probabilities (n, classes) of images that the model did not learn from.
        hits: (n,) whether their predictions are right.
        new: probabilities (m, classes).
    """
    before, after = np.sort(certainty(reference)), certainty(new)
    wrong = int((~hits).sum())
    # Certainties between the last one below and the first one above are neither.
    threshold = -np.inf if wrong == 0 else np.inf if wrong == len(before) else before[wrong - 1 : wrong + 1].mean()
    return float((after > threshold).mean())


def certainty(probabilities: Floats) -> Floats:
    """Minus the entropy of each row (n,), nats: 0 if one class has all, lower the less sure."""
    values = np.maximum(probabilities.astype(np.float64), SMALLEST_PROBABILITY)
    found: Floats = (values * np.log(values)).sum(axis=1)
    return found
