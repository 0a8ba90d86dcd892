"""How each score for foreign images does on images that it was not fitted to: the material to choose a score by.

True images are scored out of fold. Each class in turn is held out and taken for foreign (near: other things of the same
kind of image); images of another kind are far.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.scores import Floats, Integers
from tasks.vgg.foreign import SCORES, Arrays, Known
from tasks.vgg.training_data import FOLDS

FEWEST_GROUPS = 50
"""With fewer independent images, neither the choice of a score nor its threshold would be worth anything."""
MOST_HELD_OUT = 10
"""So many classes are held out, those with the most images."""


@dataclass(frozen=True)
class Near:
    """One class taken for foreign, and images of the others that the scores were not fitted to.

    Attributes:
        label: the class's index.
        rows: (m,) of the images.
        foreign: (m,) whether the image is of that class.
        scores: name -> (m,).
    """

    label: int
    rows: Integers
    foreign: npt.NDArray[np.bool_]
    scores: dict[str, Floats]


@dataclass(frozen=True)
class Trials:
    """What the scores give to images that they were not fitted to.

    Attributes:
        out_of_fold: name -> scores (n,) of the images of the classes.
        near: one for each class that was held out.
        far: name -> scores (m,) of images of another kind, fitted to all images of the classes.
        fitted: name -> what was fitted to all images of the classes.
    """

    out_of_fold: dict[str, Floats]
    near: tuple[Near, ...]
    far: dict[str, Floats]
    fitted: dict[str, Arrays]


def try_scores(features: Floats, labels: Integers, groups: Integers, far: Floats) -> Trials:
    """Fit every score to all images of the classes, and to parts of them.

    Args:
        features: pooled (n, d), of images for training and validation.
        labels: class indices (n,).
        groups: (n,) numbers of groups, `FEWEST_GROUPS` at least; the images of a group are in one fold.
        far: pooled features (m, d) of images of another kind.
    """
    fold = np.unique(groups, return_inverse=True)[1] % FOLDS
    out_of_fold: dict[str, Floats] = {name: np.empty(len(labels)) for name in SCORES}
    for number in range(FOLDS):
        held = fold == number
        for name, scores in _scores(Known(features[~held], labels[~held]), features[held]).items():
            out_of_fold[name][held] = scores
    sizes = np.bincount(labels)
    largest = np.argsort(-sizes, kind="stable")[:MOST_HELD_OUT]
    near = tuple(_hold_out(int(label), features, labels, fold) for label in largest if 0 < sizes[label] < len(labels))
    everything = Known(features, labels)
    fitted = {name: score.fit(everything) for name, score in SCORES.items()}
    far_scores = {name: SCORES[name].score(arrays, far) for name, arrays in fitted.items()}
    return Trials(
        out_of_fold, tuple(one for one in near if one.foreign.any() and not one.foreign.all()), far_scores, fitted
    )


def _hold_out(label: int, features: Floats, labels: Integers, fold: Integers) -> Near:
    """Fit to the other classes without a fold; score that fold, and all images of the class."""
    foreign = labels == label
    unseen = foreign | (fold == label % FOLDS)
    rows = np.flatnonzero(unseen)
    known = Known(features[~unseen], labels[~unseen])
    if not len(known.labels):  # the other classes are in that fold alone
        return Near(label, rows, foreign[rows], {})
    alone = len(np.unique(known.labels)) < 2
    scores = {
        name: score.score(score.fit(known), features[rows])
        for name, score in SCORES.items()
        if not (alone and score.needs_classes)
    }
    return Near(label, rows, foreign[rows], scores)


def _scores(known: Known, features: Floats) -> dict[str, Floats]:
    return {name: score.score(score.fit(known), features) for name, score in SCORES.items()}
