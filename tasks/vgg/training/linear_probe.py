"""The linear probe: multinomial logistic regression on pooled, unit-length features of the frozen backbone.

On small sets, average and maximum pooling joined are better than either alone, and unit length is better than
standardization (K. Simonyan, A. Zisserman 2015, appendix B, use L2-normalized features). With few images bilinear
pooling is better still: on ants/bees, 5x5 folds, accuracy 0.941 against 0.935, log loss 0.171 against 0.185. Pooling
and inverse regularization C are chosen by the log loss, which varies less than accuracy. It is measured on the
validation split; with few images, where one split depends too much on chance, on five folds of train + validation.
With `refit_with_validation` the chosen head is then trained again on train + validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from dvclive import Live
from sklearn.linear_model import LogisticRegression

from tasks.errors import TrainingError
from tasks.progress import Progress
from tasks.scores import accuracy, log_loss
from tasks.settings import ClassWeight, ModernRecipe, Train
from tasks.vgg.head import Dense, Floats, Head, Pooling, softmax
from tasks.vgg.inference import predict_probabilities
from tasks.vgg.training.feature_basis import FeatureBasis, take_feature_basis
from tasks.vgg.training.outcome import Outcome, log_step
from tasks.vgg.training_data import FOLDS, Material, Split

POOLING: Final = "average_maximum"
_MAX_ITERATIONS = 2000
_MAX_BILINEAR_CLASSES = 50

Labels = npt.NDArray[np.int32]
Masks = Sequence[npt.NDArray[np.bool_]]
"""For each round: which examples (n,) are held out."""


@dataclass(frozen=True)
class LinearProbe:
    """The chosen head, its probabilities (n, classes) on validation, and JSON of how it was chosen."""

    head: Head
    validation_probabilities: Floats
    summary: dict[str, Any]


def fit_linear_probe(
    rules: ModernRecipe,
    weight: ClassWeight,
    classes: int,
    train: Split,
    validation: Split,
    fold_of: Mapping[str, int] | None = None,
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
        fold_of: see `examples.draw_folds`.
        live: live metrics.
        poolings: to choose from; None: those that the numbers of examples and classes allow.

    Raises:
        TrainingError: a feature is not a finite number.
    """
    tried: list[tuple[dict[str, float], Pooling]] = []
    wanted = poolings_for(rules, classes, len(train) + len(validation)) if poolings is None else poolings
    labels = np.concatenate([train.labels, validation.labels])
    by_validation = [np.arange(len(labels)) >= len(train)]
    held_out = fold_masks(fold_of, (*train.keys, *validation.keys)) if fold_of else by_validation
    bases = {}
    with Progress("train", len(rules.inverse_regularization) * len(wanted), "candidates") as progress:
        for pooling in wanted:
            basis = bases[pooling] = take_feature_basis(pooling, [train, validation])
            _require_finite(basis)
            models = [new_model(weight) for _ in held_out]  # each fit starts from the weights of the candidate before
            for inverse_regularization in sorted(rules.inverse_regularization):
                metrics = cross_validate(models, inverse_regularization, basis.fitted, labels, held_out, classes)
                rounded = {name: round(value, 6) for name, value in metrics.items()}
                tried.append(({"inverse_regularization": inverse_regularization, **rounded}, pooling))
                if live is not None:
                    log_step(live, tried[-1][0])
                progress.advance(details=rounded)
    best, pooling = min(tried, key=lambda candidate: candidate[0]["log_loss"])
    basis = bases[pooling]
    fitted, measured = basis.fitted[: len(train)], basis.fitted[len(train) :]
    layer = fit_layer(new_model(weight), best["inverse_regularization"], fitted, train.labels, classes)
    probabilities = softmax(measured @ layer.kernel + layer.bias)
    summary = {
        "candidates": [metrics for metrics, other in tried if other == pooling],
        "chosen": {"inverse_regularization": best["inverse_regularization"]},
        "chosen_on": f"{FOLDS} folds of train and validation" if fold_of else "validation",
        "pooling": pooling,
        "log_loss_by_pooling": {
            name: min(metrics["log_loss"] for metrics, other in tried if other == name) for name in wanted
        },
    }
    return LinearProbe(_head(pooling, basis, layer), probabilities, summary)


def conclude(probe: LinearProbe, rules: Train, material: Material) -> Outcome:
    """The outcome of a probe, with test-time augmentation and refitting as the settings say."""
    probabilities = probe.validation_probabilities
    if rules.test_time_augmentation:
        probabilities = np.concatenate(
            list(predict_probabilities(probe.head, {}, True, material.workspace, material.validation.keys))
        )
    again = rules.modern.refit_with_validation
    splits = (material.train, material.validation)
    head = refit(probe, rules.class_weight, len(material.classes), splits) if again else probe.head
    return Outcome(head, {}, probabilities, {**probe.summary, "refitted_with_validation": again})


def refit(probe: LinearProbe, weight: ClassWeight, classes: int, splits: Sequence[Split]) -> Head:
    """The chosen head, fitted once more to several splits together."""
    basis = take_feature_basis(probe.head.pooling, splits)
    labels = np.concatenate([split.labels for split in splits])
    chosen = probe.summary["chosen"]["inverse_regularization"]
    return _head(probe.head.pooling, basis, fit_layer(new_model(weight), chosen, basis.fitted, labels, classes))


def poolings_for(rules: ModernRecipe, classes: int, examples: int) -> tuple[Pooling, ...]:
    """The poolings to try. Bilinear takes 1 MB of memory an example and 1 MB of model a class, so both must be few."""
    few = examples <= rules.bilinear_up_to and classes <= _MAX_BILINEAR_CLASSES
    return (POOLING, "bilinear") if few else (POOLING,)


def fold_masks(fold_of: Mapping[str, int], keys: Sequence[str]) -> Masks:
    """Which of the keys each fold holds out."""
    fold = np.array([fold_of[key] for key in keys])
    return [fold == number for number in range(FOLDS)]


def new_model(weight: ClassWeight) -> LogisticRegression:
    """An unfitted regression; a second fit starts from the first one's weights."""
    return LogisticRegression(
        max_iter=_MAX_ITERATIONS, class_weight=None if weight == "none" else weight, warm_start=True
    )


def fit_layer(
    model: LogisticRegression, inverse_regularization: float, inputs: Floats, labels: Labels, classes: int
) -> Dense:
    """Logistic regression on inputs (n, c) as a dense layer with one unit a class.

    Args:
        model: see `new_model`.
        inverse_regularization: scikit-learn's C.
        inputs: of the examples.
        labels: class indices (n,).
        classes: how many.
    """
    model.set_params(C=inverse_regularization).fit(inputs, labels)
    kernel = np.zeros((inputs.shape[1], classes), np.float32)
    bias = np.zeros(classes, np.float32)
    if classes == 2:  # scikit-learn keeps one unit: a sigmoid is a softmax whose first input is 0
        kernel[:, 1], bias[1] = model.coef_[0], model.intercept_[0]
    else:
        kernel[:], bias[:] = model.coef_.T, model.intercept_
    return Dense(kernel, bias, "softmax")


def cross_validate(
    models: Sequence[LogisticRegression],
    inverse_regularization: float,
    inputs: Floats,
    labels: Labels,
    held_out: Masks,
    classes: int,
) -> dict[str, float]:
    """Log loss (nats) and accuracy of one candidate over all held-out examples; each round fits its own model."""
    probabilities = np.empty((len(labels), classes), np.float32)
    for model, outside in zip(models, held_out, strict=True):
        layer = fit_layer(model, inverse_regularization, inputs[~outside], labels[~outside], classes)
        probabilities[outside] = softmax(inputs[outside] @ layer.kernel + layer.bias)
    measured = np.logical_or.reduce(held_out)
    probabilities, labels = probabilities[measured], labels[measured]
    return {"log_loss": log_loss(probabilities, labels), "accuracy": accuracy(probabilities, labels)}


def _head(pooling: Pooling, basis: FeatureBasis, layer: Dense) -> Head:
    """The head for pooled features, from a layer that was fitted in the basis."""
    return Head(pooling, (Dense(basis.kernel(layer.kernel), layer.bias, "softmax"),))


def _require_finite(basis: FeatureBasis) -> None:
    broken = int((~np.isfinite(basis.fitted).all(axis=1)).sum())
    if broken:
        raise TrainingError(
            f"The features of {broken} images are NaN or infinite. Compute them again: "
            "rm -r data/features && dvc repro --force --single-item features"
        )
