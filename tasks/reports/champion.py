"""Chooses the champion among the strategies, by their predictions for images that they were not trained on.

These are the validation images, or all images of train and validation that folds hold out. The test images play no
part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.errors import IntegrityError
from tasks.reports.uncertainty import standard_error
from tasks.scores import Floats, Integers, log_losses, predict

_ROUNDING = 1e-9
_RESAMPLES, _RESAMPLED_IMAGES = (50, 500), 1_000_000
"""Least and most resamples of a choice, and how many images they have together."""


@dataclass(frozen=True)
class Validated:
    """A strategy's predictions for images of train or validation that it was not trained on.

    Attributes:
        keys: n keys.
        probabilities: (n, classes).
        labels: (n,) class indices.
        groups: (n,) numbers of the images' groups, see `uncertainty`.
    """

    keys: Sequence[str]
    probabilities: Floats
    labels: Integers
    groups: Integers


def champion_rule(images: str, balanced: bool) -> str:
    """How `choose_champion` chooses on some images, to complete "The champion is ..."."""
    counted = ", and every class counts the same (train.class_weight)" if balanced else ""
    return (
        f"the first strategy in params.yaml that is not clearly worse than the best one on {images}. Not "
        "clearly worse: its error rate is at most one standard error of the paired difference above the lowest; of "
        "these strategies, the log loss likewise. The standard error counts images that belong together as one"
        f"{counted}. STRATEGY=all begins with the cheapest strategy"
    )


def choose_champion(candidates: Mapping[str, Validated], balanced: bool) -> str:
    """The champion's name (one-standard-error rule: L. Breiman et al., 1984; of paired differences).

    A few dozen images can't tell strategies apart that differ by an image or two, and on the validation split early
    stopping has chosen the epoch of some by the same images. So small differences don't count, and the order decides.

    Args:
        candidates: predictions by name, in the order of params.yaml. Images that not all have are not compared.
        balanced: whether each class counts the same, as with train.class_weight=balanced.

    Raises:
        IntegrityError: there is no image that all candidates have predicted.
    """
    return _choose(_compare(candidates, balanced))


def certainty_of_choice(candidates: Mapping[str, Validated], balanced: bool) -> dict[str, Any] | None:
    """How sure the choice of the champion is: the rule is applied to resampled images (bootstrap).

    Args:
        candidates: as for `choose_champion`; balanced likewise.

    Returns:
        `images`: how many were compared; `accuracy` and `log_loss`: by name, on these images; `resamples`; `chosen`:
        name -> the share of them that choose it, in the order of the candidates; `lost`: the accuracy on these images
        that a choice loses on average against the most accurate strategy, 0.01 is a point. None if there is nothing to
        choose.
    """
    if len(candidates) < 2:
        return None
    compared = _compare(candidates, balanced)
    rows_of = [np.flatnonzero(compared.groups == group) for group in np.unique(compared.groups)]
    count = int(np.clip(_RESAMPLED_IMAGES // len(compared.groups), *_RESAMPLES))
    random, chosen = np.random.default_rng(0), dict.fromkeys(candidates, 0)
    for _ in range(count):
        drawn = [rows_of[group] for group in random.integers(0, len(rows_of), len(rows_of))]
        chosen[_choose(compared.resampled(drawn))] += 1
    errors, losses = (
        {name: float(np.average(values, weights=compared.weights)) for name, values in of_all.items()}
        for of_all in (compared.errors, compared.losses)
    )
    lost = sum(times * errors[name] for name, times in chosen.items()) / count - min(errors.values())
    lost = max(lost, 0.0)  # a sum may be rounded below 0
    return {
        "images": len(compared.groups),
        "accuracy": {name: 1 - error for name, error in errors.items()},
        "log_loss": losses,
        "resamples": count,
        "chosen": {name: times / count for name, times in chosen.items()},
        "lost": lost,
    }


@dataclass(frozen=True)
class _Compared:
    """The candidates' errors and losses by name, (n,) each, on the images that all have predicted."""

    errors: dict[str, Floats]
    losses: dict[str, Floats]
    groups: Integers
    weights: Floats

    def resampled(self, drawn: Sequence[Integers]) -> _Compared:
        """Other images, given by the rows of each group; a group that is drawn twice counts as two."""
        rows, groups = np.concatenate(drawn), np.repeat(np.arange(len(drawn)), [len(one) for one in drawn])
        errors, losses = ({name: one[rows] for name, one in values.items()} for values in (self.errors, self.losses))
        return _Compared(errors, losses, groups, self.weights[rows])


def _compare(candidates: Mapping[str, Validated], balanced: bool) -> _Compared:
    shared = sorted(set.intersection(*(set(one.keys) for one in candidates.values())))
    if not shared:
        raise IntegrityError(
            f"No held-out image was predicted by all of {', '.join(candidates)}: they were trained on different data."
            " Run: dvc repro evaluate"
        )
    rows = {name: _rows(one, shared) for name, one in candidates.items()}
    first, known = next(iter(candidates.values())), next(iter(rows.values()))
    labels, groups = first.labels[known], first.groups[known]
    weights = 1 / np.bincount(labels)[labels] if balanced else np.ones(len(labels))
    errors: dict[str, Floats] = {}
    losses: dict[str, Floats] = {}
    for name, one in candidates.items():
        probabilities, actual = one.probabilities[rows[name]], one.labels[rows[name]]
        errors[name] = np.not_equal(predict(probabilities), actual).astype(np.float64)
        losses[name] = log_losses(probabilities, actual)
    return _Compared(errors, losses, groups, weights)


def _choose(compared: _Compared) -> str:
    left = list(compared.errors)
    for values in (compared.errors, compared.losses):
        left = _not_clearly_above_the_lowest({name: values[name] for name in left}, compared.groups, compared.weights)
    return left[0]


def _rows(one: Validated, keys: Sequence[str]) -> Integers:
    row_of = {key: row for row, key in enumerate(one.keys)}
    return np.array([row_of[key] for key in keys])


def _not_clearly_above_the_lowest(values: Mapping[str, Floats], groups: Integers, weights: Floats) -> list[str]:
    """The names whose weighted mean is at most one standard error of the difference above the lowest."""
    lowest = min(values, key=lambda name: float(np.average(values[name], weights=weights)))
    left = []
    for name, own in values.items():
        above = own - values[lowest]
        # With one image more, both sides are equal up to rounding.
        limit = (1 + _ROUNDING) * standard_error(above, groups, weights)
        if np.average(above, weights=weights) <= limit:
            left.append(name)
    return left
