"""Multinomial logistic regression as a dense layer, and its log loss on held-out examples.

The loss is that of scikit-learn, whose import takes longer than the fits of a small set. The examples are cut into
pieces of a fixed size, which all cores compute; the pieces' sums are added in their order. So the weights don't depend
on the number of cores if BLAS uses one thread (`tasks.parallel.one_blas_thread`). With more examples than `IN_MEMORY`,
probabilities are computed again where they are needed, which takes half as long once more, but no memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.parallel import on_all_cores
from tasks.scores import accuracy, log_loss
from tasks.settings import ClassWeight
from tasks.vgg.head import Dense, Floats, softmax
from tasks.vgg.training.newton import Doubles, minimize
from tasks.vgg.training.outcome import example_weights
from tasks.vgg.training_data import FOLDS, IN_MEMORY

_TOLERANCE = 1e-7
"""Largest component of the gradient at the end. The loss is divided by the number of examples, and inputs of unit
length have small gradients: 1e-4 would be met before a fit has begun to differ from that of the C before."""
_MAX_ITERATIONS = 200
_ROWS, _AT_ONCE = 2048, 8
"""Examples in a piece, and pieces whose results wait to be added. They are computed in 64 bits: in 32, rounding stops
the fits early."""

Labels = npt.NDArray[np.int32]
Masks = Sequence[npt.NDArray[np.bool_]]
"""For each round: which examples (n,) are held out."""


@dataclass
class Regression:
    """Logistic regression that starts each fit from the weights of the fit before.

    Attributes:
        weight: of the classes.
        weights: (c + 1, units), the last row is the bias; None before the first fit. Two classes need one unit.
    """

    weight: ClassWeight
    weights: Doubles | None = None


def new_model(weight: ClassWeight) -> Regression:
    """An unfitted regression; a second fit starts from the first one's weights."""
    return Regression(weight)


def fit_layer(model: Regression, inverse_regularization: float, inputs: Floats, labels: Labels, classes: int) -> Dense:
    """Logistic regression on inputs (n, c) as a dense layer with one unit a class; reports a fit that isn't finished.

    Args:
        model: see `new_model`.
        inverse_regularization: scikit-learn's C.
        inputs: of the examples.
        labels: class indices (n,); every class is among them.
        classes: how many.
    """
    loss = _Loss(inverse_regularization, inputs, labels, example_weights(labels, model.weight), classes)
    start = np.zeros(loss.shape) if model.weights is None else model.weights
    found = minimize(loss, start, _TOLERANCE, _MAX_ITERATIONS)
    model.weights = found.point
    if not found.converged:
        print(
            f"The linear probe with C={inverse_regularization:g} stopped after {found.steps} iterations, "
            "before it converged: its metrics are approximate.",
            file=sys.stderr,
            flush=True,
        )
    kernel = np.zeros((inputs.shape[1], classes), np.float32)
    bias = np.zeros(classes, np.float32)
    units = loss.shape[1]  # a sigmoid is a softmax whose first input is 0
    kernel[:, -units:], bias[-units:] = found.point[:-1], found.point[-1]
    return Dense(kernel, bias, "softmax")


@dataclass(frozen=True)
class _Piece:
    """Some examples: their place, inputs (n, c), class indices (n,), and shares of the whole loss (n, 1)."""

    number: int
    inputs: npt.NDArray[np.floating]
    labels: Labels
    shares: Doubles


class _Loss:
    """Mean log loss plus |kernel|^2 / (2 C n), as a function of weights (c + 1, units) (`newton.Convex`)."""

    def __init__(
        self, inverse_regularization: float, inputs: Floats, labels: Labels, weights: Floats, classes: int
    ) -> None:
        self.shape = (inputs.shape[1] + 1, 1 if classes == 2 else classes)
        total = weights.sum(dtype=np.float64)
        self._penalty = 1 / (inverse_regularization * total)
        shares = (weights / total)[:, None]
        if len(inputs) <= _ROWS:
            inputs = inputs.astype(np.float64)
        cuts = [slice(start, start + _ROWS) for start in range(0, len(inputs), _ROWS)]
        self._pieces = [_Piece(number, inputs[cut], labels[cut], shares[cut]) for number, cut in enumerate(cuts)]
        self._keeps_probabilities = len(inputs) <= IN_MEMORY
        self._probabilities: dict[int, Doubles] = {}
        self._weights = np.zeros(self.shape)

    def value_and_gradient(self, weights: Doubles) -> tuple[float, Doubles]:
        self._weights = weights
        kernel = weights[:-1]
        loss, gradient = self._sum(self._evaluate)
        gradient[:-1] += self._penalty * kernel
        return float(loss) + self._penalty / 2 * float(np.vdot(kernel, kernel)), gradient

    def curve(self, direction: Doubles) -> Doubles:
        product: Doubles = self._sum(lambda piece: (self._curve(piece, direction),))[0]
        product[:-1] += self._penalty * direction[:-1]
        return product

    def _sum(self, work: Callable[[_Piece], tuple[Any, ...]]) -> list[Any]:
        """The sums of what `work` makes of all pieces; few results are in memory at the same time."""
        sums: list[Any] = []
        for start in range(0, len(self._pieces), _AT_ONCE):
            for found in on_all_cores(work, self._pieces[start : start + _AT_ONCE]):
                sums = [before + one for before, one in zip(sums, found, strict=True)] if sums else list(found)
        return sums

    def _evaluate(self, piece: _Piece) -> tuple[float, Doubles]:
        """Of a piece: its loss and the gradient."""
        inputs = piece.inputs.astype(np.float64, copy=False)
        values = self._values(inputs)
        probabilities = np.exp(values)
        sums = probabilities.sum(axis=1, keepdims=True)
        probabilities /= sums
        rows = np.arange(len(piece.labels))
        losses = np.log(sums[:, 0]) - values[rows, piece.labels]
        if self._keeps_probabilities:
            self._probabilities[piece.number] = probabilities[:, -self.shape[1] :]
        errors = probabilities.copy()
        errors[rows, piece.labels] -= 1
        errors = piece.shares * errors[:, -self.shape[1] :]
        return float(losses @ piece.shares[:, 0]), _turned(inputs, errors)

    def _values(self, inputs: Doubles) -> Doubles:
        """The inputs of the softmax (n, classes); the largest of each example is 0."""
        values: Doubles = inputs @ self._weights[:-1] + self._weights[-1]
        if self.shape[1] == 1:
            values = np.concatenate([np.zeros_like(values), values], axis=1)
        values -= values.max(axis=1, keepdims=True)
        return values

    def _curve(self, piece: _Piece, direction: Doubles) -> Doubles:
        inputs = piece.inputs.astype(np.float64, copy=False)
        probabilities = self._probabilities.get(piece.number)
        if probabilities is None:
            probabilities = np.exp(self._values(inputs))
            probabilities = (probabilities / probabilities.sum(axis=1, keepdims=True))[:, -self.shape[1] :]
        changes = probabilities * (inputs @ direction[:-1] + direction[-1])
        changes -= probabilities * changes.sum(axis=1, keepdims=True)
        return _turned(inputs, piece.shares * changes)


def _turned(inputs: Doubles, errors: Doubles) -> Doubles:
    """Errors of the units (n, units) -> derivatives by the weights (c + 1, units)."""
    return np.concatenate([inputs.T @ errors, errors.sum(axis=0, keepdims=True)])


def fold_masks(fold_of: Mapping[str, int], keys: Sequence[str]) -> Masks:
    """Which of the keys each fold holds out; keys without a fold are never held out."""
    fold = np.array([fold_of.get(key, -1) for key in keys])
    return [fold == number for number in range(FOLDS)]


def predict_held_out(
    models: Sequence[Regression],
    inverse_regularization: float,
    inputs: Floats,
    labels: Labels,
    held_out: Masks,
    classes: int,
) -> Floats:
    """Probabilities (n, classes) of every held-out example, by the fit of the round that holds it out; else NaN."""
    probabilities = np.full((len(labels), classes), np.nan, np.float32)
    for model, outside in zip(models, held_out, strict=True):
        layer = fit_layer(model, inverse_regularization, inputs[~outside], labels[~outside], classes)
        probabilities[outside] = softmax(inputs[outside] @ layer.kernel + layer.bias)
    return probabilities


def cross_validate(
    models: Sequence[Regression],
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
    probabilities = predict_held_out(models, inverse_regularization, inputs, labels, held_out, classes)
    measured = np.logical_or.reduce(held_out)
    probabilities, labels = probabilities[measured], labels[measured]
    return {
        "log_loss": log_loss(probabilities, labels, example_weights(labels, weight)),
        "accuracy": accuracy(probabilities, labels),
    }
