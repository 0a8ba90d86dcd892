"""The linear probe: multinomial logistic regression on pooled, unit-length features of the frozen backbone.

It is all of `modern` feature extraction, and what `modern` fine-tuning begins with.

Average and maximum pooling joined beat either alone, and unit length beats standardising, on small sets (K. Simonyan,
A. Zisserman 2015, appendix B, use L2-normalised features). Bilinear pooling beats both where images are few: on
ants/bees, 5x5 folds, 0.941 against 0.935, log loss 0.171 against 0.185. Pooling and strength of the regularisation are
chosen by the log loss, which is steadier than accuracy: on the validation split, or, where images are few and one
split of them is a matter of luck, on five folds of train + validation. With `refit_with_validation` the chosen head is
then trained once more on train + validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from dvclive import Live
from sklearn.linear_model import LogisticRegression

from tasks.errors import TrainingError
from tasks.images.splits import draw
from tasks.progress import Progress
from tasks.settings import ClassWeight, ModernRecipe, Train
from tasks.vgg.examples import Material, Split
from tasks.vgg.head import Dense, Floats, Head, Pooling, softmax
from tasks.vgg.inference import predict_probabilities
from tasks.vgg.training.feature_basis import FeatureBasis, take_feature_basis
from tasks.vgg.training.outcome import Outcome, accuracy, log_loss, log_step

POOLING: Final = "average_maximum"
_MAX_ITERATIONS = 2000
_MAX_BILINEAR_CLASSES = 50
_FOLDS = 5


@dataclass(frozen=True)
class LinearProbe:
    """The head that was chosen, its probabilities (n, classes) there, and JSON of how it was chosen."""

    head: Head
    validation_probabilities: Floats
    summary: dict[str, Any]


def fit_linear_probe(
    rules: ModernRecipe,
    weight: ClassWeight,
    classes: int,
    train: Split,
    validation: Split,
    live: Live | None = None,
    poolings: Sequence[Pooling] | None = None,
) -> LinearProbe:
    """Choose a head and fit it to the train split.

    Args:
        rules: the candidates.
        weight: of the classes.
        classes: how many.
        train: to fit.
        validation: to choose by, alone or together with train.
        live: live metrics.
        poolings: to choose from; None: those that so many examples and classes allow.

    Raises:
        TrainingError: a feature is not a finite number.
    """
    tried: list[tuple[dict[str, float], Pooling]] = []
    examples = len(train) + len(validation)
    wanted = poolings_for(rules, classes, examples) if poolings is None else poolings
    labels = np.concatenate([train.labels, validation.labels])
    rounds = _rounds(rules, train, validation)
    coordinates = {}
    with Progress("train", len(rules.inverse_regularization) * len(wanted), "candidates") as progress:
        for pooling in wanted:
            seen = coordinates[pooling] = take_feature_basis(pooling, [train, validation])
            _require_finite(seen)
            # the next candidate starts from the last
            models = [LogisticRegression(warm_start=True, **_options(weight)) for _ in rounds]
            for strength in sorted(rules.inverse_regularization):
                figures = _measure(models, strength, seen.fitted, labels, rounds, classes)
                tried.append(({"inverse_regularization": strength, **figures}, pooling))
                if live is not None:
                    log_step(live, tried[-1][0])
                progress.advance(details=figures)
    best, pooling = min(tried, key=lambda candidate: candidate[0]["log_loss"])
    seen = coordinates[pooling]
    fitted, measured = seen.fitted[: len(train)], seen.fitted[len(train) :]
    layer = fit_layer(best["inverse_regularization"], weight, fitted, train.labels, classes)
    probabilities = softmax(measured @ layer.kernel + layer.bias)
    summary = {
        "candidates": [figures for figures, other in tried if other == pooling],
        "chosen": {"inverse_regularization": best["inverse_regularization"]},
        "chosen_on": "validation" if len(rounds) == 1 else f"{len(rounds)} folds of train and validation",
        "pooling": pooling,
        "log_loss_by_pooling": {
            name: min(figures["log_loss"] for figures, other in tried if other == name) for name in wanted
        },
    }
    return LinearProbe(
        Head(pooling, (Dense(seen.kernel(layer.kernel), layer.bias, "softmax"),)), probabilities, summary
    )


def conclude(probe: LinearProbe, rules: Train, material: Material) -> Outcome:
    """The classifier that a probe is, as the settings want it."""
    answers = probe.validation_probabilities
    if rules.test_time_augmentation:
        answers = np.concatenate(
            list(predict_probabilities(probe.head, {}, True, material.workspace, material.validation.keys))
        )
    again = rules.modern.refit_with_validation
    splits = (material.train, material.validation)
    head = refit(probe, rules.class_weight, len(material.classes), splits) if again else probe.head
    return Outcome(head, {}, answers, {**probe.summary, "refitted_with_validation": again})


def refit(probe: LinearProbe, weight: ClassWeight, classes: int, splits: Sequence[Split]) -> Head:
    """The chosen head, fitted once more to several splits together."""
    strength = probe.summary["chosen"]["inverse_regularization"]
    seen = take_feature_basis(probe.head.pooling, splits)
    labels = np.concatenate([split.labels for split in splits])
    layer = fit_layer(strength, weight, seen.fitted, labels, classes)
    return Head(probe.head.pooling, (Dense(seen.kernel(layer.kernel), layer.bias, "softmax"),))


def poolings_for(rules: ModernRecipe, classes: int, examples: int) -> tuple[Pooling, ...]:
    """Bilinear pooling takes 1 MB of memory an example, and 1 MB of the model a class: only where both are few."""
    few = examples <= rules.bilinear_up_to and classes <= _MAX_BILINEAR_CLASSES
    return (POOLING, "bilinear") if few else (POOLING,)


def _require_finite(seen: FeatureBasis) -> None:
    broken = sum(int((~np.isfinite(values).all(axis=1)).sum()) for values in (seen.fitted, seen.measured))
    if broken:
        raise TrainingError(
            f"The features of {broken} images are NaN or infinite. Compute them anew: "
            "rm -r data/features && dvc repro --force --single-item features"
        )


def _options(weight: ClassWeight) -> dict[str, Any]:
    return {"max_iter": _MAX_ITERATIONS, "class_weight": None if weight == "none" else weight}


def fit_layer(
    strength: float, weight: ClassWeight, inputs: Floats, labels: npt.NDArray[np.int32], classes: int
) -> Dense:
    """Logistic regression on inputs (n, c) as a dense layer.

    Args:
        strength: inverse of the regularisation's, as scikit-learn's C.
        weight: of the classes.
        inputs: of the examples.
        labels: class indices (n,).
        classes: how many.
    """
    return _fit(LogisticRegression(C=strength, **_options(weight)), inputs, labels, classes)


def _fit(model: LogisticRegression, inputs: Floats, labels: npt.NDArray[np.int32], classes: int) -> Dense:
    """The fitted regression as a dense layer with one unit a class."""
    model.fit(inputs, labels)
    kernel = np.zeros((inputs.shape[1], classes), np.float32)
    bias = np.zeros(classes, np.float32)
    if classes == 2:  # scikit-learn keeps one unit: a sigmoid is a softmax whose first input is 0
        kernel[:, 1], bias[1] = model.coef_[0], model.intercept_[0]
    else:
        kernel[:], bias[:] = model.coef_.T, model.intercept_
    return Dense(kernel, bias, "softmax")


def _rounds(rules: ModernRecipe, train: Split, validation: Split) -> list[npt.NDArray[np.bool_]]:
    """Which of train and validation, in this order, are held out: round by round."""
    keys, labels = (*train.keys, *validation.keys), np.concatenate([train.labels, validation.labels])
    few = len(keys) <= rules.folds_up_to and np.bincount(labels)[np.unique(labels)].min() >= _FOLDS
    if not few:
        return [np.arange(len(keys)) >= len(train)]
    fold = np.empty(len(keys), np.int64)
    for label in np.unique(labels):  # in an order by content, so that it doesn't matter how images came
        places = sorted(np.flatnonzero(labels == label), key=lambda place: draw(f"probe:{keys[place]}", 0))
        fold[places] = np.arange(len(places)) % _FOLDS
    return [fold == number for number in range(_FOLDS)]


def _measure(
    models: Sequence[LogisticRegression],
    strength: float,
    inputs: Floats,
    labels: npt.NDArray[np.int32],
    rounds: Sequence[npt.NDArray[np.bool_]],
    classes: int,
) -> dict[str, float]:
    """Figures of one candidate on all that is held out."""
    probabilities = np.empty((len(labels), classes), np.float32)
    for model, outside in zip(models, rounds, strict=True):
        layer = _fit(model.set_params(C=strength), inputs[~outside], labels[~outside], classes)
        probabilities[outside] = softmax(inputs[outside] @ layer.kernel + layer.bias)
    held_out = np.logical_or.reduce(rounds)
    answers, truth = probabilities[held_out], labels[held_out]
    return {"log_loss": round(log_loss(answers, truth), 6), "accuracy": round(accuracy(answers, truth), 6)}
