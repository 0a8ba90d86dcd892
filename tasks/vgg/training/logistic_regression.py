"""Multinomial logistic regression as a dense layer, and its log loss on held-out examples."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from tasks.scores import accuracy, log_loss
from tasks.settings import ClassWeight
from tasks.vgg.head import Dense, Floats, softmax
from tasks.vgg.training.outcome import example_weights
from tasks.vgg.training_data import FOLDS

_TOLERANCE = 1e-7
"""Largest gradient at the end. scikit-learn divides the loss by the number of examples, and inputs of unit length have
small gradients: its default 1e-4 is met before the fit has begun to differ from that of the C before."""
_MAX_ITERATIONS = 20_000

Labels = npt.NDArray[np.int32]
Masks = Sequence[npt.NDArray[np.bool_]]
"""For each round: which examples (n,) are held out."""


def new_model(weight: ClassWeight) -> LogisticRegression:
    """An unfitted regression; a second fit starts from the first one's weights."""
    return LogisticRegression(
        tol=_TOLERANCE, max_iter=_MAX_ITERATIONS, class_weight=None if weight == "none" else weight, warm_start=True
    )


def fit_layer(
    model: LogisticRegression, inverse_regularization: float, inputs: Floats, labels: Labels, classes: int
) -> Dense:
    """Logistic regression on inputs (n, c) as a dense layer with one unit a class; reports a fit that isn't finished.

    Args:
        model: see `new_model`.
        inverse_regularization: scikit-learn's C.
        inputs: of the examples.
        labels: class indices (n,); every class is among them.
        classes: how many.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.set_params(C=inverse_regularization).fit(inputs, labels)
    for one in caught:
        if not issubclass(one.category, ConvergenceWarning):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
            continue
        print(
            f"The linear probe with C={inverse_regularization:g} stopped after {model.n_iter_.max()} iterations, "
            "before it converged: its metrics are approximate.",
            file=sys.stderr,
            flush=True,
        )
    kernel = np.zeros((inputs.shape[1], classes), np.float32)
    bias = np.zeros(classes, np.float32)
    if classes == 2:  # scikit-learn keeps one unit: a sigmoid is a softmax whose first input is 0
        kernel[:, 1], bias[1] = model.coef_[0], model.intercept_[0]
    else:
        kernel[:], bias[:] = model.coef_.T, model.intercept_
    return Dense(kernel, bias, "softmax")


def fold_masks(fold_of: Mapping[str, int], keys: Sequence[str]) -> Masks:
    """Which of the keys each fold holds out; keys without a fold are never held out."""
    fold = np.array([fold_of.get(key, -1) for key in keys])
    return [fold == number for number in range(FOLDS)]


def cross_validate(
    models: Sequence[LogisticRegression],
    weight: ClassWeight,
    inverse_regularization: float,
    inputs: Floats,
    labels: Labels,
    held_out: Masks,
    classes: int,
) -> dict[str, float]:
    """Log loss (nats) and accuracy of one candidate over all held-out examples; each round fits its own model.

    With `balanced` every class counts the same in the log loss, as it does in the fits; accuracy is never weighted.
    """
    probabilities = np.empty((len(labels), classes), np.float32)
    for model, outside in zip(models, held_out, strict=True):
        layer = fit_layer(model, inverse_regularization, inputs[~outside], labels[~outside], classes)
        probabilities[outside] = softmax(inputs[outside] @ layer.kernel + layer.bias)
    measured = np.logical_or.reduce(held_out)
    probabilities, labels = probabilities[measured], labels[measured]
    return {
        "log_loss": log_loss(probabilities, labels, example_weights(labels, weight)),
        "accuracy": accuracy(probabilities, labels),
    }
