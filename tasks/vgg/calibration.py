"""The calibration of int8, and the check whether training on int8 features costs accuracy.

The calibration is stored with the features and used again while decoder and weights stay the same: with other ranges
all features would have to be computed again. The check is paired: one linear probe is fitted to float features and one
to int8 features of the same validation images. Both predict the same held-out images from float features, as served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.files import read_json, write_json
from tasks.images.folds import assign_folds
from tasks.images.manifest import Duplicate, Example
from tasks.scores import log_losses, predict
from tasks.vgg.engines import Engine, Pixels
from tasks.vgg.head import Floats
from tasks.vgg.training_data import FOLDS
from tasks.vgg.weights import Weights

FILE = "calibration.json"
IMAGES = 64
CHECKED = 256
"""Most validation images that the check uses."""
MARGIN = 0.02
"""Largest allowed increase of the log loss by int8, nats (the upper end of its 95 % interval)."""
_FEWEST = 100


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


def check(plain: Floats, quantized: Floats, examples: Sequence[Example], duplicates: Sequence[Duplicate]) -> Verdict:
    """Compare linear probes on float and on int8 features; see the module's docstring.

    Args:
        plain: pooled float features of validation images (n, inputs).
        quantized: pooled int8 features of the same images.
        examples: the images; groups and near duplicates stay in one fold.
        duplicates: see `assign_folds`.
    """
    counts = Counter(one.label for one in examples)
    usable = [counts[one.label] >= FOLDS for one in examples]
    plain, quantized = plain[usable], quantized[usable]
    examples = [one for one, use in zip(examples, usable, strict=True) if use]
    too_few = Verdict(False, f"{len(examples)} validation images are too few to tell whether int8 costs accuracy")
    if len(examples) < _FEWEST or len({one.label for one in examples}) < 2:
        return too_few
    try:
        fold_of = assign_folds(examples, duplicates, FOLDS, 0)
    except ValueError:  # too few images of a class that don't belong together
        return too_few
    folds = np.array([fold_of[one.key] for one in examples])
    classes = np.array([one.label for one in examples])
    losses, correct = zip(*(_held_out(fitted, plain, classes, folds) for fitted in (plain, quantized)), strict=True)
    more = losses[1] - losses[0]
    upper = float(more.mean() + 1.96 * more.std(ddof=1) / np.sqrt(len(more)))
    facts = (
        f"{int(correct[1].sum())} of {len(classes)} validation images predicted correctly, {int(correct[0].sum())} "
        f"without int8; log loss higher by {more.mean():.4f}, at most {upper:.4f}"
    )
    return Verdict(upper < MARGIN and correct[1].sum() >= correct[0].sum(), facts)


def _held_out(
    fitted: Floats, seen: Floats, classes: npt.NDArray[np.str_], folds: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Log loss of each image, and whether it is predicted correctly, by linear probes fitted to the other folds."""
    from sklearn.linear_model import LogisticRegression

    losses, correct = np.empty(len(classes)), np.zeros(len(classes), np.bool_)
    for fold in range(FOLDS):
        outside = folds == fold
        model = LogisticRegression(C=10.0, max_iter=2000).fit(fitted[~outside], classes[~outside])
        probabilities = model.predict_proba(seen[outside])
        labels = np.searchsorted(model.classes_, classes[outside])
        losses[outside] = log_losses(probabilities, labels)
        correct[outside] = predict(probabilities) == labels
    return losses, correct
