"""The calibration of int8, and the check whether training on int8 features costs accuracy.

The calibration is stored with the features and used again while decoder and weights stay the same: with other ranges
all features would have to be computed again. The check is paired: one linear probe is fitted to float features and one
to int8 features of the same validation images. Both predict the same held-out images from float features, as served.
int8 passes if it is not inferior: the 95 % interval of the difference of their log losses ends below MARGIN. The log
loss decides alone, because a difference of one correct prediction is chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.files import read_json, write_json
from tasks.images.folds import assign_folds, groups_of
from tasks.images.manifest import Duplicate, Example
from tasks.scores import log_losses, predict
from tasks.vgg.engines import Engine, Pixels
from tasks.vgg.head import Floats, Pooling, pool
from tasks.vgg.training_data import FOLDS
from tasks.vgg.weights import Weights

FILE = "calibration.json"
IMAGES = 64
CHECKED = 256
"""Most validation images that the check uses, unless so many classes need more to fill the folds."""
_MOST_CLASSES = 100
MARGIN = 0.02
"""Largest allowed increase of the log loss by int8, nats (the upper end of its 95 % interval)."""
_FEWEST = 100
"""Fewer images may hide a loss: harm to one image in 33 is likely to be among 100, and costs about MARGIN."""
_MOST_USABLE = 0.8
"""With fewer folds rarer classes can be used; this share of the images is enough."""
_STRENGTHS = (10.0, 100.0)
"""Values of scikit-learn's C."""
_QUANTILE = 1.984
"""Of Student's t with _FEWEST - 1 degrees of freedom."""

_SMALLEST = 1e-7
"""Directions whose squared length is below this share of the longest one's hold only rounding errors."""

Features = npt.NDArray[np.floating[Any]]
_Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """The keys of the calibration images, and the largest output of each convolution on them."""

    images: tuple[str, ...]
    ranges: tuple[float, ...]

    @property
    def engine(self) -> Engine:
        return Engine("onnxruntime", "int8", self.ranges)


@dataclass(frozen=True)
class Verdict:
    """Whether the check found no loss by int8, and the reason in words."""

    passed: bool
    reason: str


def calibrate(weights: Weights, train: Sequence[str], read: Callable[[Sequence[str]], Pixels]) -> Calibration:
    """Measure ranges on the training images with the smallest keys: keys are content hashes, so this is random."""
    from tasks.vgg.quantized import measure_ranges

    chosen = tuple(sorted(train)[:IMAGES])
    return Calibration(chosen, measure_ranges(weights, read(chosen)))


def load_calibration(folder: Path, recipe: str) -> Calibration | None:
    """The calibration that `save_calibration` stored for this recipe; None if there is none."""
    try:
        kept = read_json(folder / FILE)
        return Calibration(tuple(kept["images"]), tuple(kept["ranges"])) if kept["recipe"] == recipe else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # missing or damaged


def save_calibration(folder: Path, calibration: Calibration | None, recipe: str) -> None:
    """Store a calibration for this recipe; None removes the stored one."""
    if calibration is None:
        (folder / FILE).unlink(missing_ok=True)
        return
    kept = {"recipe": recipe, "images": list(calibration.images), "ranges": list(calibration.ranges)}
    write_json(folder / FILE, kept)


def choose_checked(validation: Sequence[Example]) -> list[Example]:
    """The images of the check: each class in turn, in the order of their keys, so that every class can fill the folds.

    Of many classes a sample is enough: whether int8 blurs differences is a question about the network.
    """
    ranked: list[tuple[int, str, Example]] = []
    seen: Counter[str] = Counter()
    for one in sorted(validation, key=lambda one: one.key):
        if one.label in seen or len(seen) < _MOST_CLASSES:
            ranked.append((seen[one.label], one.key, one))
            seen[one.label] += 1
    return [one for *_, one in sorted(ranked, key=lambda one: one[:2])[: max(CHECKED, FOLDS * len(seen))]]


def check(
    plain: Features, quantized: Features, examples: Sequence[Example], duplicates: Sequence[Duplicate],
    poolings: Sequence[Pooling],
) -> Verdict:  # fmt: skip
    """Compare linear probes on float and on int8 features; see the module's docstring.

    Args:
        plain: float features of validation images (n, h, w, c).
        quantized: int8 features of the same images.
        examples: the images; groups and near duplicates stay in one fold, and count as one in the interval.
        duplicates: see `assign_folds`.
        poolings: that training may choose; each must pass.
    """
    group_of = groups_of(examples, duplicates)
    folds, usable = _folds_for(examples, group_of)
    plain, quantized = plain[usable], quantized[usable]
    examples = [one for one, use in zip(examples, usable, strict=True) if use]
    groups = np.unique([group_of[one.key] for one in examples], return_inverse=True)[1]
    independent = len(set(groups.tolist()))
    if independent < _FEWEST or len({one.label for one in examples}) < 2:
        few = f"{independent} validation images that don't belong together are too few"
        return Verdict(False, f"{few} to tell whether int8 costs accuracy: {_FEWEST} of two classes are needed")
    fold_of = assign_folds(examples, duplicates, folds, 0)
    fold = np.array([fold_of[one.key] for one in examples])
    classes = np.array([one.label for one in examples])
    passed, facts = True, []
    for pooling in poolings:
        without, with_int8 = _compare(pool(plain, pooling), pool(quantized, pooling), classes, fold)
        more, most = _mean_and_bound(with_int8.losses - without.losses, groups)
        passed = passed and most < MARGIN
        facts.append(
            f"with {pooling} pooling {int(with_int8.correct.sum())} of {len(classes)} validation images predicted "
            f"correctly, {int(without.correct.sum())} without int8, log loss higher by {more:.4f}, at most {most:.4f}"
        )
    return Verdict(passed, f"{'; '.join(facts)}; less than {MARGIN} is allowed")


@dataclass(frozen=True)
class _Predicted:
    """Of each image, predicted by a probe that hasn't seen it: its log loss, and whether the prediction is correct."""

    losses: _Doubles
    correct: npt.NDArray[np.bool_]


def _folds_for(examples: Sequence[Example], group_of: Mapping[str, str]) -> tuple[int, npt.NDArray[np.bool_]]:
    """As many folds as most of the images allow, and which images are in classes that can fill them."""
    apart = Counter(label for label, _ in {(one.label, group_of[one.key]) for one in examples})
    for folds in range(FOLDS, 1, -1):
        usable = np.array([apart[one.label] >= folds for one in examples], dtype=bool)
        if usable.sum() >= _MOST_USABLE * len(usable):
            break
    return folds, usable


def _compare(
    plain: Floats, quantized: Floats, classes: npt.NDArray[np.str_], fold: npt.NDArray[np.int64]
) -> tuple[_Predicted, _Predicted]:
    """Predictions for held-out, pooled float features by probes on float features, and by probes on int8 features.

    Both have the regularization that is best for float features.
    """
    fitted, seen = _in_span(plain, plain)
    tried = [(strength, _predict(fitted, seen, classes, fold, strength)) for strength in _STRENGTHS]
    best, without = min(tried, key=lambda one: one[1].losses.mean())
    return without, _predict(*_in_span(quantized, plain), classes, fold, best)


def _in_span(fitted: Floats, seen: Floats) -> tuple[_Doubles, _Doubles]:
    """Both in the dimensions that the fitted images span, which are all that a regularized linear probe sees.

    They are in 64 bits: in 32, rounding stops the fits early.
    """
    if fitted.shape[1] <= len(fitted):
        return fitted.astype(np.float64), seen.astype(np.float64)
    products, others = (fitted @ fitted.T).astype(np.float64), (seen @ fitted.T).astype(np.float64)
    lengths, directions = np.linalg.eigh(products)
    kept = lengths > _SMALLEST * lengths[-1]
    basis = directions[:, kept] / np.sqrt(lengths[kept])
    return products @ basis, others @ basis


def _predict(
    fitted: _Doubles, seen: _Doubles, classes: npt.NDArray[np.str_], fold: npt.NDArray[np.int64], strength: float
) -> _Predicted:
    """Predict each image by a linear probe that is fitted to the other folds."""
    from sklearn.linear_model import LogisticRegression

    losses, correct = np.empty(len(classes)), np.zeros(len(classes), np.bool_)
    for number in np.unique(fold):
        outside = fold == number
        model = LogisticRegression(C=strength, tol=1e-6, max_iter=2000).fit(fitted[~outside], classes[~outside])
        probabilities = model.predict_proba(seen[outside])
        labels = np.searchsorted(model.classes_, classes[outside])
        losses[outside] = log_losses(probabilities, labels)
        correct[outside] = predict(probabilities) == labels
    return _Predicted(losses, correct)


def _mean_and_bound(differences: _Doubles, groups: npt.NDArray[np.intp]) -> tuple[float, float]:
    """The mean over images, and the upper end of its 95 % interval; images of a group vary together."""
    sums = np.bincount(groups, differences - differences.mean())
    error = np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(differences)
    return float(differences.mean()), float(differences.mean() + _QUANTILE * error)
