"""The linear probe: multinomial logistic regression on pooled, unit-length features of the frozen backbone.

On small sets, average and maximum pooling joined are better than either alone, and unit length is better than
standardization (K. Simonyan, A. Zisserman 2015, appendix B, use L2-normalized features). Bilinear pooling is better
still: on ants/bees, 5x5 folds, accuracy 0.941 against 0.935, log loss 0.171 against 0.185; on 750 test images of five
flowers 0.744 against 0.723, log loss 0.667 against 0.729. Its time rises at least with the square of the images.

Pooling and inverse regularization C are chosen by the log loss, which varies less than accuracy. It is measured on the
validation split; with few images, where one split depends too much on chance, on five folds of train + validation.
With `refit_with_validation` the chosen head is then trained again on train + validation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tasks.progress import Progress
from tasks.settings import ClassWeight, ModernRecipe, Train
from tasks.vgg.head import Dense, Floats, Head, Pooling, softmax
from tasks.vgg.inference import predict_probabilities
from tasks.vgg.training.feature_basis import FeatureBasis, take_feature_basis
from tasks.vgg.training.live_metrics import LiveMetrics
from tasks.vgg.training.logistic_regression import cross_validate, fit_layer, fold_masks, new_model, predict_held_out
from tasks.vgg.training.outcome import FoldPredictions, Outcome
from tasks.vgg.training_data import FOLDS, IN_MEMORY, Material, Split, sample_splits

POOLING: Final = "average_maximum"
FURTHER = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
"""Values of C beyond those of the settings; see `try_values`."""
_MAX_BILINEAR_CLASSES = 50
CHOICE_IMAGES = IN_MEMORY
"""More images would choose the same, but each of the many fits would take as long as the last one."""

Metrics = dict[str, float]


@dataclass(frozen=True)
class LinearProbe:
    """The chosen head.

    Attributes:
        head: fitted to the train split.
        refitted: the same head, fitted once more to train + validation; None if the settings don't ask for it.
        validation_probabilities: (n, classes) of `head`.
        summary: JSON of how it was chosen.
        folds: predictions for the images of train and validation that the folds hold out; None if there are no folds.
    """

    head: Head
    refitted: Head | None
    validation_probabilities: Floats
    summary: dict[str, Any]
    folds: FoldPredictions | None


def fit_linear_probe(
    rules: ModernRecipe,
    weight: ClassWeight,
    classes: int,
    train: Split,
    validation: Split,
    fold_of: Mapping[str, int] | None = None,
    live: LiveMetrics | None = None,
    poolings: Sequence[Pooling] | None = None,
) -> LinearProbe:
    """Choose a head and fit it to the train split.

    Args:
        rules: the candidates.
        weight: of the classes.
        classes: how many.
        train: to fit.
        validation: to choose by, alone or together with train.
        fold_of: see `training_data.draw_folds`.
        live: live metrics.
        poolings: to choose from; None: those that the numbers of examples and classes allow.

    Raises:
        TrainingError: a feature is not a finite number.
    """
    splits = [train, validation]
    used = sample_splits(splits, CHOICE_IMAGES)
    wanted = poolings_for(rules, classes, len(train) + len(validation)) if poolings is None else poolings
    tried: dict[Pooling, list[Metrics]] = {}
    bases: dict[Pooling, FeatureBasis] = {}
    with Progress("train", len(rules.inverse_regularization) * len(wanted), "candidates") as progress:
        for pooling in wanted:
            bases[pooling] = take_feature_basis(pooling, used)
            measure = _measure(bases[pooling], weight, classes, used, fold_of)
            tried[pooling] = try_values(rules.inverse_regularization, _shown(measure, progress, live))
    best = {name: min(candidates, key=_log_loss) for name, candidates in tried.items()}
    pooling = min(best, key=lambda name: _log_loss(best[name]))
    chosen = best[pooling]["inverse_regularization"]
    basis = bases[pooling] if used[0] is train else take_feature_basis(pooling, splits)
    layer = fit_layer(new_model(weight), chosen, basis.fitted[: len(train)], train.labels, classes)
    again = None
    if rules.refit_with_validation:
        labels = np.concatenate([train.labels, validation.labels])
        again = _head(pooling, basis, fit_layer(new_model(weight), chosen, basis.fitted, labels, classes))
    summary = {
        "candidates": tried[pooling],
        "chosen": {"inverse_regularization": chosen},
        "chosen_on": _chosen_on(fold_of, validation, used[1]),
        "pooling": pooling,
        "log_loss_by_pooling": {name: _log_loss(metrics) for name, metrics in best.items()},
    }
    probabilities = softmax(basis.fitted[len(train) :] @ layer.kernel + layer.bias)
    folds = _predict_folds(basis, weight, chosen, classes, splits, fold_of) if fold_of else None
    return LinearProbe(_head(pooling, basis, layer), again, probabilities, summary, folds)


def _predict_folds(
    basis: FeatureBasis,
    weight: ClassWeight,
    value: float,
    classes: int,
    splits: Sequence[Split],
    fold_of: Mapping[str, int],
) -> FoldPredictions:
    keys, labels = [key for split in splits for key in split.keys], np.concatenate([split.labels for split in splits])
    held_out = fold_masks(fold_of, keys)
    models = [new_model(weight) for _ in held_out]
    probabilities = predict_held_out(models, value, basis.fitted, labels, held_out, classes)
    rows = np.flatnonzero(np.logical_or.reduce(held_out))
    return FoldPredictions(tuple(keys[row] for row in rows), probabilities[rows])


def try_values(values: Iterable[float], measure: Callable[[float], Metrics]) -> list[Metrics]:
    """Measure values of C, then further ones as long as the best lies at an end; a single value stands alone.

    Returns:
        the metrics of each, by rising C.
    """
    tried = {value: measure(value) for value in sorted(values)}

    def best() -> float:
        return min(tried, key=lambda value: _log_loss(tried[value]))

    if len(tried) > 1:
        for value in FURTHER:
            if value > max(tried) == best():
                tried[value] = measure(value)
        for value in reversed(FURTHER):
            if value < min(tried) == best():
                tried[value] = measure(value)
    return [tried[value] for value in sorted(tried)]


def _measure(
    basis: FeatureBasis, weight: ClassWeight, classes: int, splits: Sequence[Split], fold_of: Mapping[str, int] | None
) -> Callable[[float], Metrics]:
    """The metrics of one C; each fit starts from the weights of the candidate before."""
    train, validation = splits
    labels = np.concatenate([train.labels, validation.labels])
    by_validation = [np.arange(len(labels)) >= len(train)]
    held_out = fold_masks(fold_of, (*train.keys, *validation.keys)) if fold_of else by_validation
    models = [new_model(weight) for _ in held_out]
    return lambda value: cross_validate(models, weight, value, basis.fitted, labels, held_out, classes)


def _shown(
    measure: Callable[[float], Metrics], progress: Progress, live: LiveMetrics | None
) -> Callable[[float], Metrics]:
    """Measure as `measure`, rounded, with the candidate's C, and show the result."""

    def show(value: float) -> Metrics:
        metrics = {name: round(metric, 6) for name, metric in measure(value).items()}
        progress.total = max(progress.total, progress.done + 1)
        progress.advance(details=metrics)
        metrics = {"inverse_regularization": value, **metrics}
        if live is not None:
            live.log(metrics)
        return metrics

    return show


def _log_loss(metrics: Metrics) -> float:
    return metrics["log_loss"]


def _chosen_on(fold_of: Mapping[str, int] | None, validation: Split, used: Split) -> str:
    if fold_of:
        return f"{FOLDS} folds of train and validation"
    return "validation" if len(used) == len(validation) else f"{len(used):,} of the validation images"


def conclude(probe: LinearProbe, rules: Train, material: Material) -> Outcome:
    """The outcome of a probe, with test-time augmentation as the settings say."""
    probabilities = probe.validation_probabilities
    if rules.test_time_augmentation:
        probabilities = np.concatenate(
            list(predict_probabilities(probe.head, {}, True, material.workspace, material.validation.keys))
        )
    summary = {**probe.summary, "refitted_with_validation": probe.refitted is not None}
    return Outcome(probe.refitted or probe.head, {}, probabilities, summary, folds=probe.folds)


def poolings_for(rules: ModernRecipe, classes: int, examples: int) -> tuple[Pooling, ...]:
    """The poolings to try. Bilinear takes time for each pair of examples and 1 MB a class: both must be few."""
    few = examples <= rules.bilinear_up_to and classes <= _MAX_BILINEAR_CLASSES
    return (POOLING, "bilinear") if few else (POOLING,)


def _head(pooling: Pooling, basis: FeatureBasis, layer: Dense) -> Head:
    """The head for pooled features, from a layer that was fitted in the basis."""
    return Head(pooling, (basis.layer(layer),))
